//! A minimal HTTP/1.1 client: one request per connection.

use std::io::{Error, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::netns::Netns;

/// Longer than any response takes, so that a hanging server fails the test and not the runner.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// After removal of chunked framing; still compressed if the server did that.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text; panics if it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }
}

/// GETs `path` from a server in `ns`, with additional `headers`; panics if that fails.
pub fn get(ns: &Netns, server: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    ns.enter(|| try_get(server, path, headers))
        .unwrap_or_else(|e| panic!("GET {path} from {server} in {}: {e}", ns.name()))
}

/// GETs in the namespace of the calling thread.
pub fn try_get(server: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Response, Error> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    parse(&exchange(server, request.as_bytes())?)
}

/// Sends bytes and returns all that comes back until the server closes.
pub fn exchange(server: SocketAddr, request: &[u8]) -> Result<Vec<u8>, Error> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Parses a whole response.
pub fn parse(answer: &[u8]) -> Result<Response, Error> {
    let shown = || String::from_utf8_lossy(answer).into_owned();
    let end = find(answer, b"\r\n\r\n").ok_or_else(|| Error::other(format!("no header end: {}", shown())))?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let mut response = Response {
        status: status.ok_or_else(|| Error::other(format!("no status: {}", shown())))?,
        headers: lines.filter_map(header_line).collect(),
        body: answer[end + 4..].to_vec(),
    };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = unchunk(&response.body).ok_or_else(|| Error::other("truncated chunks"))?;
    }
    let announced = response.header("content-length").map(str::to_owned);
    if announced.is_some_and(|length| length != response.body.len().to_string()) {
        return Err(Error::other(format!("length differs: {}", shown())));
    }
    Ok(response)
}

fn header_line(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}

/// Joins the chunks of a chunked body; None if the last one is missing.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = find(rest, b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let chunk = rest.get(end + 2..end + 2 + size)?;
        body.extend_from_slice(chunk);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
