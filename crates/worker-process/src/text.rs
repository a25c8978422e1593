//! What a worker says: lines of a bounded length, and texts that can be shown.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// What is kept of a text, in bytes.
const MAX_TEXT: usize = 1024;

/// Reads a line of at most `longest` bytes; nothing at the end.
pub async fn read_line(
    from: &mut (impl AsyncBufRead + Unpin),
    longest: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let part = from.fill_buf().await?;
        if part.is_empty() {
            return Ok(None);
        }
        let end = part.iter().position(|byte| *byte == b'\n');
        let (part, used) = end.map_or((part, part.len()), |end| (&part[..end], end + 1));
        if line.len() + part.len() > longest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line that is too long"));
        }
        line.extend_from_slice(part);
        from.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

/// A text of a worker made fit for a journal and a terminal: no control characters, no change of the writing
/// direction, not longer than a paragraph.
pub fn clean(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    let mut cleaned = String::with_capacity(text.len().min(MAX_TEXT));
    for c in text.chars() {
        if cleaned.len() >= MAX_TEXT {
            cleaned.push('…');
            break;
        }
        cleaned.push(if harmful(c) { '\u{fffd}' } else { c });
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded() {
        let read = async |bytes: &[u8]| read_line(&mut tokio::io::BufReader::new(bytes), 100).await;
        assert_eq!(read(b"").await.unwrap(), None);
        assert_eq!(read(b"{}\nrest").await.unwrap(), Some(b"{}".to_vec()));
        assert_eq!(read(&[b'x'; 101]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn texts_of_a_worker_cannot_forge_journal_lines_or_steer_a_terminal() {
        assert_eq!(
            clean("ok\nROSTERD_USER=root\u{1b}[2J\u{202e}"),
            "ok\u{fffd}ROSTERD_USER=root\u{fffd}[2J\u{fffd}"
        );
        assert!(clean(&"é".repeat(10_000)).len() < MAX_TEXT + 8);
    }
}
