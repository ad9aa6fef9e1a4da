//! A small client: sets and gets a few keys through a node, with nothing but the standard library.
//! `cargo run --example client -- 127.0.0.1:19001`

use std::{
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
};

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:19001".to_owned());
    let mut stream = TcpStream::connect(&address)?;
    let mut replies = BufReader::new(stream.try_clone()?);
    // A pipeline: all requests first, then all replies, in order, though they come from different servers.
    let names = ["Ada", "Grace", "Barbara"];
    for (i, name) in names.iter().enumerate() {
        stream.write_all(&request(&["SET", &format!("user:{i}"), name]))?;
        stream.write_all(&request(&["GET", &format!("user:{i}")]))?;
    }
    for i in 0..names.len() {
        println!("SET user:{i} -> {}", reply(&mut replies)?);
        println!("GET user:{i} -> {}", reply(&mut replies)?);
    }
    Ok(())
}

/// A request is an array of bulk strings.
fn request(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    out
}

/// Simple strings, errors, numbers and bulk strings; enough for SET and GET.
fn reply(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let line = line.trim_end();
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("not understood: {line:?}"));
    match line.split_at_checked(1).ok_or_else(bad)? {
        ("+" | ":", text) => Ok(text.to_owned()),
        ("-", text) => Err(io::Error::other(text.to_owned())),
        ("$", "-1") => Ok("(nothing)".to_owned()),
        ("$", len) => {
            let mut body = vec![0; len.parse::<usize>().map_err(|_| bad())? + 2];
            from.read_exact(&mut body)?;
            body.truncate(body.len() - 2);
            Ok(String::from_utf8_lossy(&body).into_owned())
        }
        _ => Err(bad()),
    }
}
