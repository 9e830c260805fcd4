//! The least HTTP that asks an administration port: one GET, one answer, the connection closed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context;

/// Longer than any answer takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An answer, its body as text.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 200 and the like.
    pub status: u16,
    /// The lines before the body.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Asks for `path` at `address`. HTTP/1.0, so that the body comes in one piece and ends with the connection.
pub fn get(address: &str, path: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("no answer for {path}"))?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("not an HTTP answer: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("an answer without a status")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
