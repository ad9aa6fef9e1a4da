//! A redis-server as a child process, and a blocking client, for the examples that measure something.

use std::{
    io::{BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use pontoon::resp::{reply::ReplyScanner, write};

pub type Res<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Deadline of every operation.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A redis-server on loopback without persistence. It ends when this value is dropped.
pub struct Server {
    child: Child,
    pub addr: String,
    _dir: tempfile::TempDir,
}

impl Server {
    pub fn start(port: u16) -> Res<Self> {
        let dir = tempfile::tempdir()?;
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(dir.path())
            .args(["--enable-debug-command", "yes", "--slowlog-log-slower-than", "1000"])
            .stdout(Stdio::null())
            .spawn()?;
        let server = Self { child, addr: format!("127.0.0.1:{port}"), _dir: dir };
        let began = Instant::now();
        while TcpStream::connect(&server.addr).is_err() {
            if began.elapsed() > PATIENCE {
                return Err("redis-server does not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub fn client(&self) -> Res<Client> {
        let stream = TcpStream::connect(&self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client {
            writer: stream.try_clone()?,
            reader: BufReader::with_capacity(1 << 20, stream),
            buffer: Vec::new(),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A blocking client. It returns an error reply as an error.
pub struct Client {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    fn reply(&mut self) -> Res<Vec<u8>> {
        let mut scanner = ReplyScanner::default();
        loop {
            if let Some(len) = scanner.scan(&self.buffer)? {
                let reply: Vec<u8> = self.buffer.drain(..len).collect();
                if reply.starts_with(b"-") {
                    return Err(String::from_utf8_lossy(&reply).into_owned().into());
                }
                return Ok(reply);
            }
            let mut more = vec![0; 256 << 10];
            let n = self.reader.read(&mut more)?;
            if n == 0 {
                return Err("the server has closed the connection".into());
            }
            self.buffer.extend_from_slice(&more[..n]);
        }
    }

    pub fn ask(&mut self, args: &[&[u8]]) -> Res<Vec<u8>> {
        let mut out = Vec::new();
        write::request(&mut out, args);
        self.writer.write_all(&out)?;
        self.reply()
    }

    /// Executes a command. Its arguments are separated by spaces and contain none.
    pub fn execute(&mut self, line: &str) -> Res<Vec<u8>> {
        self.ask(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    /// Sends the requests `write_one(out, 0)`, `write_one(out, 1)`, ... in pipelines of a thousand, and reads the
    /// replies.
    pub fn fill(&mut self, count: usize, mut write_one: impl FnMut(&mut Vec<u8>, usize)) -> Res<()> {
        for start in (0..count).step_by(1000) {
            let batch = start..count.min(start + 1000);
            let mut out = Vec::new();
            batch.clone().for_each(|i| write_one(&mut out, i));
            self.writer.write_all(&out)?;
            for _ in batch {
                self.reply()?;
            }
        }
        Ok(())
    }
}
