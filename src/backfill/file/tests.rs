//! Zips as they come, and as somebody might make them to do harm.

use std::io::Write;

use proptest::prelude::*;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, content) in entries {
        if name.ends_with('/') {
            zip.add_directory(*name, SimpleFileOptions::default())
                .unwrap();
        } else {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(content).unwrap();
        }
    }
    zip.finish().unwrap().into_inner()
}

fn limits() -> Limits {
    Limits {
        line_bytes: 1000,
        ..Limits::default()
    }
}

/// The lines that were read, and how it ended.
fn lines(bytes: &[u8], limits: &Limits) -> (Vec<String>, Result<(), FileError>) {
    let mut lines = Vec::new();
    let end = read(file(bytes), limits, |line| {
        lines.push(match line {
            Line::Whole(line) => String::from_utf8_lossy(&line).into_owned(),
            Line::TooLong => "too long".to_owned(),
        });
        true
    });
    (lines, end)
}

#[test]
fn every_line_of_every_file_in_every_folder_is_read() {
    let zip = zipped(&[
        ("20261120/", b""),
        (
            "20261120/receiveVoice/a.txt",
            b"\xef\xbb\xbf{\"a\":1}\r\n\r\n{\"b\":2}",
        ),
        ("20261120/receiveVoice/deep/er/b.txt", b"{\"c\":3}\n"),
        ("c.txt", b""),
        ("d", b"broken\n{\"d\":4}\n"),
    ]);
    let (lines, end) = lines(&zip, &limits());
    assert_eq!(end, Ok(()));
    assert_eq!(
        lines,
        [
            r#"{"a":1}"#,
            r#"{"b":2}"#,
            r#"{"c":3}"#,
            "broken",
            r#"{"d":4}"#
        ]
    );
}

#[test]
fn names_that_lead_elsewhere_are_read_and_lead_nowhere() {
    let zip = zipped(&[
        ("../../escaped.txt", b"1"),
        ("/etc/escaped.txt", b"2"),
        ("C:\\escaped.txt", b"3"),
        ("a\u{0}b", b"4"),
    ]);
    let (lines, end) = lines(&zip, &limits());
    assert_eq!((lines.concat().as_str(), end), ("1234", Ok(())));
}

#[test]
fn lines_alone_are_read_and_other_files_refused() {
    let (read, end) = lines(b"\xef\xbb\xbf\n {\"a\":1}\n{\"b\":2}", &limits());
    assert_eq!((read.len(), end), (2, Ok(())));
    for bytes in [
        &b""[..],
        b"\x7fELF",
        b"a,b\n1,2\n",
        b"<html>",
        b"\x1f\x8b\x08",
    ] {
        assert_eq!(lines(bytes, &limits()).1, Err(FileError::NoPushes));
    }
}

#[test]
fn a_zip_of_too_many_files_is_refused_before_any_is_read() {
    let names: Vec<_> = (0..11).map(|n| n.to_string()).collect();
    let entries: Vec<_> = names.iter().map(|name| (&**name, &b"{}"[..])).collect();
    let few = Limits {
        entries: 10,
        ..limits()
    };
    let refused = (Vec::new(), Err(FileError::TooManyEntries(10)));
    assert_eq!(lines(&zipped(&entries), &few), refused);
    assert_eq!(lines(&zipped(&entries[1..]), &few).1, Ok(()));
}

#[test]
fn a_zip_that_unpacks_too_far_is_refused_after_as_much() {
    // A line of a thousand bytes, three thousand times: 3 MB from a few KB.
    let bomb = zipped(&[("bomb", &[&[b'x'; 999][..], b"\n"].concat().repeat(3000))]);
    assert!(bomb.len() < 14_000, "{}", bomb.len());
    let (read, end) = lines(&bomb, &limits());
    let most = bomb.len() as u64 * 200;
    assert_eq!(end, Err(FileError::UnpacksTooFar(most.max(SMALL))));
    assert!(read.len() < 3000);
    let wide = Limits {
        ratio: 1000,
        ..limits()
    };
    assert_eq!(lines(&bomb, &wide).1, Ok(()));
    let low = Limits {
        unpacked_bytes: 10_000,
        ..wide
    };
    let (read, end) = lines(&bomb, &low);
    assert_eq!(end, Err(FileError::UnpacksTooFar(10_000)));
    assert!(read.len() <= 10);
}

#[test]
fn many_small_bombs_count_together() {
    let half = [&[b'x'; 999][..], b"\n"].concat().repeat(700);
    let bombs = zipped(&[("a", &half), ("b", &half)]);
    let end = lines(&bombs, &limits()).1;
    assert!(matches!(end, Err(FileError::UnpacksTooFar(_))), "{end:?}");
}

#[test]
fn one_endless_line_takes_no_memory_and_is_told() {
    let zip = zipped(&[("a", &[vec![b'x'; 900_000], b"\n{}\n".to_vec()].concat())]);
    assert_eq!(
        lines(&zip, &limits()),
        (vec!["too long".to_owned(), "{}".to_owned()], Ok(()))
    );
}

#[test]
fn what_can_be_read_of_a_damaged_zip_is() {
    let mut zip = zipped(&[("a", b"{\"a\":1}\n"), ("b", b"{\"b\":2}\n")]);
    // In the data of the first file, after its header of 30 bytes and its name.
    zip[33] ^= 0xff;
    let (read, end) = lines(&zip, &limits());
    assert!(matches!(end, Err(FileError::BadZip(_))), "{end:?}");
    assert!(read.contains(&r#"{"b":2}"#.to_owned()), "{read:?}");
}

#[test]
fn zips_within_zips_and_zip64_are_not_looked_into() {
    let inner = zipped(&[("a", b"{}")]);
    let outer = zipped(&[("inner.zip", &inner), ("b", b"{\"b\":2}")]);
    let (read, end) = lines(&outer, &limits());
    assert!(matches!(end, Err(FileError::BadZip(_))), "{end:?}");
    assert_eq!(read, [r#"{"b":2}"#]);
    let mut huge = inner;
    let end_record = huge.len() - 22;
    let announced = [ZIP64, &[0; ZIP64_BEFORE_END - 4]].concat();
    huge.splice(end_record..end_record, announced);
    let refused = Err(FileError::BadZip("zip64 is not read".to_owned()));
    assert_eq!(lines(&huge, &limits()).1, refused);
    // Also where something that looks like another end stands behind.
    let comment = u16::try_from(END.len()).unwrap().to_le_bytes();
    let at = huge.len() - 2;
    huge.splice(at.., [&comment, END].concat());
    assert_eq!(lines(&huge, &limits()).1, refused);
}

#[test]
fn bytes_that_would_announce_zip64_elsewhere_mean_nothing() {
    let name = format!("a{}b", str::from_utf8(ZIP64).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    zip.start_file(&name, stored).unwrap();
    let line = format!("{{\"{name}\":1}}");
    zip.write_all(line.as_bytes()).unwrap();
    zip.set_comment(name.clone()).unwrap();
    let zip = zip.finish().unwrap().into_inner();
    assert!(zip.windows(ZIP64.len()).filter(|it| it == &ZIP64).count() >= 4);
    assert_eq!(lines(&zip, &limits()), (vec![line], Ok(())));
}

#[test]
fn reading_stops_when_no_more_is_wanted() {
    let zip = zipped(&[("a", b"{}\n{}\n"), ("b", b"{}\n")]);
    let mut taken = 0;
    let end = read(file(&zip), &limits(), |_| {
        taken += 1;
        false
    });
    assert_eq!((taken, end), (1, Ok(())));
}

proptest! {
    #[test]
    fn a_zip_with_bytes_changed_does_not_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        is_cut: bool,
    ) {
        let mut zip = zipped(&[("a/b", b"{\"a\":1}\n{}\n"), ("c", &b"{\"long\":1}\n".repeat(50))]);
        for (at, byte) in changes {
            let at = at.index(zip.len());
            zip[at] = byte;
        }
        if is_cut {
            zip.truncate(cut.index(zip.len()));
        }
        let _ = lines(&zip, &limits());
    }
}
