use proptest::prelude::*;

use super::*;

/// The header and the rows of a file with these bytes.
fn rows(bytes: &[u8]) -> anyhow::Result<(Vec<String>, Vec<Line>)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("rows.csv");
    std::fs::write(&path, bytes)?;
    let source = Source::open(&path, None)?;
    let mut lines = Vec::new();
    source.read(|line| {
        lines.push(line);
        ControlFlow::Continue(())
    })?;
    assert_eq!(source.rows, lines.len() as u64);
    Ok((source.header, lines))
}

fn line(number: u64, values: &[&str]) -> Line {
    Line {
        number,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        fault: None,
    }
}

fn gb18030(text: &str) -> Vec<u8> {
    encoding_rs::GB18030.encode(text).0.into_owned()
}

#[test]
fn three_encodings_and_three_delimiters_give_the_same_rows() {
    let text = "客户手机号码,姓名\n13800000000,張三㐀𠮷\n";
    let expected = rows(text.as_bytes()).unwrap();
    assert_eq!(expected.0, ["客户手机号码", "姓名"]);
    assert_eq!(expected.1, [line(2, &["13800000000", "張三㐀𠮷"])]);
    for delimiter in [",", ";", "\t"] {
        let text = text.replace(',', delimiter);
        assert_eq!(
            rows(format!("\u{feff}{text}").as_bytes()).unwrap(),
            expected
        );
        assert_eq!(rows(&gb18030(&text)).unwrap(), expected);
    }
}

#[test]
fn lines_are_counted_as_an_editor_counts_them_however_they_end() {
    let text = "a,b\n\n1,\"x\ny\"\n,\n\n2,z";
    let expected = |ending: &str| {
        let broken = format!("x{ending}y");
        vec![line(3, &["1", &broken]), line(7, &["2", "z"])]
    };
    assert_eq!(rows(text.as_bytes()).unwrap().1, expected("\n"));
    let text = text.replace('\n', "\r\n");
    assert_eq!(rows(text.as_bytes()).unwrap().1, expected("\r\n"));
    assert_eq!(
        rows(format!("{text}\r\n").as_bytes()).unwrap().1,
        expected("\r\n")
    );
}

#[test]
fn what_cannot_be_read_as_text_is_a_fault_of_its_line_alone() {
    let bytes = [
        &gb18030("号码,姓名\n1,张\n2,"),
        &b"\xff\xff\n"[..],
        &gb18030("3,李\n"),
    ]
    .concat();
    let (_, lines) = rows(&bytes).unwrap();
    let faulty: Vec<_> = lines.iter().map(|line| line.fault.is_some()).collect();
    assert_eq!(faulty, [false, true, false]);
    assert_eq!(lines[2], line(4, &["3", "李"]));
}

#[test]
fn a_quote_that_is_never_closed_fails_instead_of_swallowing_rows() {
    let failed = rows(b"a,b\n1,2\n3,\"4\n5,6\n7,8\n").unwrap_err();
    let told = format!("{failed:#}");
    assert!(told.contains("line 3: a quote"), "{told}");
}

#[test]
fn files_that_are_no_rows_are_told_in_words() {
    let told = |bytes: &[u8]| format!("{:#}", rows(bytes).unwrap_err());
    assert!(told(b"").contains("it is empty"));
    assert!(told(b"\n\r\n").contains("it is empty"));
    assert!(told(b"\xff\xfea\0").contains("it is UTF-16"));
    assert!(told(b"PK\x03\x04").contains("must end in .xlsx"));
}

#[test]
fn a_file_that_changes_between_two_readings_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    std::fs::write(&path, "a\n1\n").unwrap();
    let source = Source::open(&path, None).unwrap();
    std::fs::write(&path, "a\n1\n2\n").unwrap();
    let failed = source.read(|_| ControlFlow::Continue(())).unwrap_err();
    assert!(format!("{failed:#}").contains("changed"), "{failed:#}");
}

proptest! {
    // Each case writes files.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_rows_come_back_from_each_encoding(
        values in prop::collection::vec(prop::collection::vec("[\\PC\n\",;|\t]{1,6}", 3), 1..20)
    ) {
        let mut text = csv::Writer::from_writer(Vec::new());
        text.write_record(["号码", "姓名", "地址"]).unwrap();
        for row in &values {
            text.write_record(row).unwrap();
        }
        let text = String::from_utf8(text.into_inner().unwrap()).unwrap();
        let is_blank = |row: &&Vec<String>| row.iter().all(|value| value.trim().is_empty());
        let expected: Vec<_> = values.iter().filter(|row| !is_blank(row)).cloned().collect();
        let read = |bytes: &[u8]| -> Vec<_> {
            let lines = rows(bytes).unwrap().1;
            assert!(lines.iter().all(|line| line.fault.is_none()));
            lines.into_iter().map(|line| line.values).collect()
        };
        prop_assert_eq!(&read(text.as_bytes()), &expected);
        prop_assert_eq!(&read(format!("\u{feff}{text}").as_bytes()), &expected);
        prop_assert_eq!(&read(&gb18030(&text)), &expected);
    }

    #[test]
    fn no_bytes_make_the_reader_fail_in_another_way_than_by_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let _ = rows(&bytes);
    }
}
