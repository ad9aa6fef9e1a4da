//! A fake server with the answers of a test.

use pontoon::model::ids::HostPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Answers each read with the next of `answers`; then closes the connection, or stays silent if `hang`.
pub async fn server(answers: Vec<Vec<u8>>, hang: bool) -> HostPort {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = HostPort::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                for answer in answers {
                    if stream.read(&mut buffer).await.unwrap_or(0) == 0 || stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
                if hang {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    addr
}

pub fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

pub fn ok() -> Vec<u8> {
    b"+OK\r\n".to_vec()
}
