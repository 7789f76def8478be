//! Lines of a file, in memory that no file can make grow.

use std::io::{self, BufRead};

use bytes::Bytes;

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Its bytes, without the white space around them.
    Whole(Bytes),
    /// It has more bytes than a line may have, and was passed over.
    TooLong,
}

/// Reads lines from a file. Ends are LF or CRLF; a byte order mark at the beginning and blank
/// lines are passed over; the last line needs no end.
pub struct Lines<R> {
    reader: R,
    most: usize,
    is_first: bool,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl<R: BufRead> Lines<R> {
    /// Reads lines of at most so many bytes.
    pub fn new(reader: R, most: usize) -> Self {
        Self {
            reader,
            most,
            is_first: true,
        }
    }

    /// The next line that is not blank; `None` at the end.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        while let Some(line) = self.any()? {
            let is_first = std::mem::take(&mut self.is_first);
            let Line::Whole(whole) = line else {
                return Ok(Some(line));
            };
            let text = whole.strip_prefix(BYTE_ORDER_MARK).filter(|_| is_first);
            let text = text.unwrap_or(&whole).trim_ascii();
            if !text.is_empty() {
                return Ok(Some(Line::Whole(whole.slice_ref(text))));
            }
        }
        Ok(None)
    }

    /// The next line as it stands.
    fn any(&mut self) -> io::Result<Option<Line>> {
        let mut line = Some(Vec::new());
        let mut is_begun = false;
        loop {
            let part = match self.reader.fill_buf() {
                Ok(part) => part,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = part.iter().position(|byte| *byte == b'\n');
            let is_over = end.is_some() || part.is_empty();
            is_begun |= !part.is_empty();
            let text = &part[..end.unwrap_or(part.len())];
            // White space around a line counts, too: what is kept must have a bound.
            line = line.filter(|line| line.len() + text.len() <= self.most);
            if let Some(line) = &mut line {
                line.extend_from_slice(text);
            }
            let read = end.map_or(part.len(), |end| end + 1);
            self.reader.consume(read);
            if is_over {
                let whole = |line: Vec<u8>| Line::Whole(line.into());
                return Ok(is_begun.then(|| line.map_or(Line::TooLong, whole)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], most: usize, buffer: usize) -> Vec<Line> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, bytes), most);
        std::iter::from_fn(|| lines.next_line().unwrap()).collect()
    }

    fn whole(text: &'static str) -> Line {
        Line::Whole(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn byte_order_mark_blank_lines_and_both_ends_of_lines_are_taken() {
        let text = b"\xef\xbb\xbf{\"a\":1}\r\n\r\n  \n{\"b\":2}\n\t{\"c\":3} \n\nlast";
        for buffer in [1, 2, 7, 1000] {
            assert_eq!(
                read(text, 100, buffer),
                [
                    whole(r#"{"a":1}"#),
                    whole(r#"{"b":2}"#),
                    whole(r#"{"c":3}"#),
                    whole("last")
                ]
            );
        }
        assert_eq!(read(b"", 10, 10), []);
        assert_eq!(read(b"\xef\xbb\xbf", 10, 10), []);
    }

    #[test]
    fn a_line_too_long_is_told_and_the_next_ones_are_read() {
        let text = [b"ok\n".to_vec(), vec![b'x'; 100_000], b"\nok\n".to_vec()].concat();
        assert_eq!(
            read(&text, 10, 64),
            [whole("ok"), Line::TooLong, whole("ok")]
        );
    }

    proptest! {
        #[test]
        fn lines_are_those_between_line_ends_whatever_the_bytes(
            text in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..300),
            most in 1_usize..60,
            buffer in 1_usize..80,
        ) {
            let text = [b"x\n".to_vec(), text].concat();
            let expected: Vec<_> = text
                .split(|byte| *byte == b'\n')
                .filter_map(|line| match line {
                    line if line.len() > most => Some(Line::TooLong),
                    line if line.trim_ascii().is_empty() => None,
                    line => Some(Line::Whole(Bytes::copy_from_slice(line.trim_ascii()))),
                })
                .collect();
            prop_assert_eq!(read(&text, most, buffer), expected);
        }
    }
}
