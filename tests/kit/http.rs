//! A minimal HTTP client for the administration port: one GET request per connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context;

/// Limit for a response on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A response, with its body as text.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Requests `path` from `address`. Uses HTTP/1.0, so that the body is not chunked and ends with the connection.
pub fn get(address: &str, path: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("no response for {path}"))?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("not an HTTP response: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("a response without a status")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
