//! A small HTTP/1.1 client on a unix socket: enough for the Engine API, no dependencies.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// No answer of an engine under measurement takes longer.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest head line that is read.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Most that is taken at once of a body that is thrown away.
const READ_BYTES: usize = 256 << 10;
/// Longest body that is kept.
const MAX_BODY_BYTES: u64 = 64 << 20;

/// One keep-alive connection to an engine.
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// A whole answer.
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// The body, unchunked.
    pub body: Vec<u8>,
}

/// What the head of an answer says about its body.
struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

impl Client {
    /// Connect to the socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Client> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Send one request and read its whole answer.
    pub fn call(&mut self, method: &str, path: &str, json: Option<&str>) -> io::Result<Answer> {
        self.send(method, path, json, "")?;
        let head = self.read_head()?;
        let body = self.read_body(&head)?;
        Ok(Answer {
            status: head.status,
            body,
        })
    }

    /// As [`Client::expect`] without a body, with more head lines, each with its line end.
    pub fn expect_with(&mut self, method: &str, path: &str, extra: &str) -> io::Result<Vec<u8>> {
        self.send(method, path, None, extra)?;
        self.expected(method, path)
    }

    /// Send a file as the body, a tar; an answer that is not 2xx is an error.
    pub fn upload(&mut self, method: &str, path: &str, mut file: &File) -> io::Result<Vec<u8>> {
        let length = file.metadata()?.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\n\r\n"
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        // The kernel copies: the client's work is small beside the engine's.
        let sent = io::copy(&mut file, self.stream.get_mut());
        let answer = self.expected(method, path)?;
        sent.map(|_| answer)
    }

    /// As [`Client::call`]; an answer that is not 2xx or 304 is an error with the engine's text.
    pub fn expect(&mut self, method: &str, path: &str, json: Option<&str>) -> io::Result<Vec<u8>> {
        self.send(method, path, json, "")?;
        self.expected(method, path)
    }

    fn expected(&mut self, method: &str, path: &str) -> io::Result<Vec<u8>> {
        let head = self.read_head()?;
        let answer = Answer {
            status: head.status,
            body: self.read_body(&head)?,
        };
        if (200..300).contains(&answer.status) || answer.status == 304 {
            return Ok(answer.body);
        }
        let text = String::from_utf8_lossy(&answer.body);
        Err(io::Error::other(format!(
            "{method} {path}: {} {}",
            answer.status,
            text.trim()
        )))
    }

    /// The length of a body, which may be of any length and is thrown away as it comes: what is measured is the engine.
    pub fn count(&mut self, path: &str) -> io::Result<u64> {
        self.send("GET", path, None, "")?;
        let head = self.read_head()?;
        if head.status != 200 {
            let body = self.read_body(&head)?;
            let text = String::from_utf8_lossy(&body);
            return Err(io::Error::other(format!(
                "GET {path}: {} {text}",
                head.status
            )));
        }
        let mut block = vec![0; READ_BYTES];
        if !head.chunked {
            return self.skip(head.length.unwrap_or(0), &mut block);
        }
        let mut total = 0;
        loop {
            let size = self.chunk_size()?;
            total += self.skip(size, &mut block)?;
            self.line()?;
            if size == 0 {
                return Ok(total);
            }
        }
    }

    fn skip(&mut self, bytes: u64, block: &mut [u8]) -> io::Result<u64> {
        let mut left = bytes;
        while left > 0 {
            let wanted = left.min(block.len() as u64) as usize;
            match self.stream.read(&mut block[..wanted])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => left -= n as u64,
            }
        }
        Ok(bytes)
    }

    fn chunk_size(&mut self) -> io::Result<u64> {
        let line = self.line()?;
        u64::from_str_radix(&line, 16).map_err(|_| io::Error::other("bad chunk size"))
    }

    /// Ask for a hijacked stream; what follows the head is read from the returned reader.
    pub fn hijack(mut self, path: &str) -> io::Result<BufReader<UnixStream>> {
        self.send(
            "POST",
            path,
            None,
            "Connection: Upgrade\r\nUpgrade: tcp\r\n",
        )?;
        let head = self.read_head()?;
        if head.status != 101 && head.status != 200 {
            return Err(io::Error::other(format!(
                "{path}: no stream but status {}",
                head.status
            )));
        }
        Ok(self.stream)
    }

    fn send(
        &mut self,
        method: &str,
        path: &str,
        json: Option<&str>,
        extra: &str,
    ) -> io::Result<()> {
        let body = json.unwrap_or("");
        let kind = if json.is_some() {
            "Content-Type: application/json\r\n"
        } else {
            ""
        };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: d\r\n{extra}{kind}Content-Length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if (&mut self.stream)
            .take(MAX_LINE_BYTES)
            .read_line(&mut line)?
            == 0
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn read_head(&mut self) -> io::Result<Head> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status =
            status.ok_or_else(|| io::Error::other(format!("not an HTTP answer: {first}")))?;
        let mut head = Head {
            status,
            length: None,
            chunked: false,
        };
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':') {
                None => return Ok(head),
                Some(("content-length", n)) => head.length = n.trim().parse().ok(),
                Some(("transfer-encoding", kind)) => head.chunked = kind.contains("chunked"),
                Some(_) => {}
            }
        }
    }

    fn read_body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if head.status == 204 || head.status == 304 {
            return Ok(body);
        }
        if !head.chunked {
            let length = head.length.unwrap_or(0).min(MAX_BODY_BYTES);
            (&mut self.stream).take(length).read_to_end(&mut body)?;
            return Ok(body);
        }
        loop {
            let size = self.chunk_size()?;
            if size > MAX_BODY_BYTES {
                return Err(io::Error::other("chunk too large"));
            }
            (&mut self.stream).take(size).read_to_end(&mut body)?;
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// The text of the first string field `key` in a JSON document.
pub fn json_string(doc: &[u8], key: &str) -> Option<String> {
    let text = std::str::from_utf8(doc).ok()?;
    let rest = text
        .split_once(&format!("\"{key}\""))?
        .1
        .trim_start()
        .strip_prefix(':')?;
    rest.trim_start()
        .strip_prefix('"')?
        .split('"')
        .next()
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(raw: &'static [u8]) -> io::Result<Answer> {
        let (near, mut far) = UnixStream::pair()?;
        far.write_all(raw)?;
        let mut client = Client {
            stream: BufReader::new(near),
        };
        client.call("GET", "/", None)
    }

    #[test]
    fn reads_both_kinds_of_body() -> io::Result<()> {
        let plain = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOKrest")?;
        assert_eq!(
            (plain.status, plain.body.as_slice()),
            (200, b"OK".as_slice())
        );
        let chunked = answer(
            b"HTTP/1.1 404 NF\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
        )?;
        assert_eq!(
            (chunked.status, chunked.body.as_slice()),
            (404, b"abcd".as_slice())
        );
        assert!(answer(b"nonsense\r\n\r\n").is_err());
        Ok(())
    }

    #[test]
    fn counts_a_body() -> io::Result<()> {
        let (near, mut far) = UnixStream::pair()?;
        far.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n")?;
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")?;
        let mut client = Client {
            stream: BufReader::new(near),
        };
        assert_eq!((client.count("/")?, client.count("/")?), (13, 2));
        Ok(())
    }

    #[test]
    fn finds_a_json_string() {
        assert_eq!(
            json_string(b"{\"Id\": \"abc\",\"x\":1}", "Id").as_deref(),
            Some("abc")
        );
        assert_eq!(json_string(b"{}", "Id"), None);
    }
}
