//! What the gateway finds in headers and rows before anything is sent.

use tonic::{Code, Status};
use tonic_types::StatusExt;
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::{
    DirectCall, DuplicateRule, SubmitRowsRequest, UploadHeader, UploadRow, UploadRowResult,
};

use super::stage::{Stage, silent};
use super::upload::{
    Row, Told, direct, good, header, into_task, messages, not, outcome, row, rows, submit,
    submit_messages,
};
use crate::bridge::reason;

const NUMBER: &str = "13000000001";
const OTHER: &str = "13000000002";

/// The result of the row at this place of what was sent, where keys repeat.
fn all_of<'a>(told: &'a Told, key: &str) -> Vec<&'a UploadRowResult> {
    told.end.clone().unwrap();
    let results = told.results.iter();
    results.filter(|result| result.row_key == key).collect()
}

async fn upload(header: UploadHeader, rows: &[UploadRow]) -> (Stage, Told) {
    let stage = Stage::set(silent(), "").await;
    let told = submit(&stage.outbound(), header, rows).await;
    (stage, told)
}

#[tokio::test]
async fn each_row_that_cannot_be_right_is_refused_with_its_own_reason() {
    let long = "k".repeat(257);
    let rows = [
        row("", &["13000000009", "no key"]),
        row(&long, &["13000000008", "long key"]),
        row("large", &["13000000005", &"v".repeat(4097)]),
        row("few", &["13000000007"]),
        row("many", &["13000000006", "n", "n"]),
        row("no values", &[]),
        row("empty", &["", "n"]),
        row("blank", &["  ", "n"]),
        row("short", &["1234", "n"]),
        row("letters", &["customer", "n"]),
        row("good", &[NUMBER, "n"]),
        row(&"k".repeat(256), &[OTHER, "n"]),
    ];
    let (stage, told) = upload(direct(""), &rows).await;
    assert_eq!(told.results.len(), rows.len());
    for (key, expected) in [
        ("", "ROW_KEY_MISSING"),
        (&long, "ROW_KEY_TOO_LONG"),
        ("large", "ROW_TOO_LARGE"),
        ("few", "ROW_MISMATCH"),
        ("many", "ROW_MISMATCH"),
        ("no values", "ROW_MISMATCH"),
        ("empty", "PHONE_NUMBER_MISSING"),
        ("blank", "PHONE_NUMBER_MISSING"),
        ("short", "IMPLAUSIBLE_PHONE_NUMBER"),
        ("letters", "IMPLAUSIBLE_PHONE_NUMBER"),
    ] {
        let results = all_of(&told, key);
        assert_eq!(results.len(), 1, "{key}");
        assert_eq!(outcome(results[0]), not(expected, ""), "{key}");
    }
    assert_eq!(told.totals().accepted, 2);
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 2);
}

#[tokio::test]
async fn no_error_of_a_row_tells_its_number() {
    let numbers = ["12345678", "+999 13000000005", "13000009999"];
    let row = |(index, number): (usize, &&str)| row(&index.to_string(), &[number, "n"]);
    let rows: Vec<_> = numbers.iter().enumerate().map(row).collect();
    let (_, told) = upload(direct(""), &rows).await;
    assert_eq!(told.totals().refused, 3);
    for (result, number) in told.results.iter().zip(numbers) {
        assert!(!format!("{result:?}").contains(number), "{result:?}");
    }
}

#[tokio::test]
async fn a_number_that_comes_again_is_refused_however_it_is_written() {
    let again = [
        NUMBER,
        " 13000000001",
        "+8613000000001",
        "130 0000 0001",
        "130-0000-0001",
    ];
    let mut rows = vec![row("first", &[NUMBER, "first"])];
    for (index, number) in again.iter().enumerate() {
        rows.push(row(&index.to_string(), &[number, "again"]));
    }
    rows.push(row("other", &[OTHER, "other"]));
    let (stage, told) = upload(direct(""), &rows).await;
    for index in 0..again.len() {
        let results = all_of(&told, &index.to_string());
        assert_eq!(outcome(results[0]), not("DUPLICATE_NUMBER", ""), "{index}");
    }
    assert_eq!(told.totals().accepted, 2);
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 2);
}

fn warned(result: &UploadRowResult) -> Vec<&str> {
    let warnings = result.warnings.iter();
    warnings.map(|warning| warning.reason.as_str()).collect()
}

#[tokio::test]
async fn a_number_that_comes_again_goes_through_with_a_warning_where_the_header_says_so() {
    let header = UploadHeader {
        duplicate_numbers: DuplicateRule::Warn.into(),
        ..direct("")
    };
    let rows = [row("a", &[NUMBER, "first"]), row("b", &[NUMBER, "second"])];
    let (stage, told) = upload(header, &rows).await;
    assert_eq!(told.totals().accepted, 2);
    let by_key = told.by_key();
    assert_eq!(warned(by_key["a"]), [""; 0]);
    assert_eq!(warned(by_key["b"]), ["DUPLICATE_NUMBER"]);
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["accepted"], 2);
}

#[tokio::test]
async fn a_key_that_comes_again_with_other_values_is_refused_or_warned_of() {
    let rows = [row("a", &[NUMBER, "first"]), row("a", &[OTHER, "second"])];
    let (stage, told) = upload(direct(""), &rows).await;
    let outcomes: Vec<_> = told.results.iter().map(outcome).collect();
    assert!(outcomes.contains(&not("DUPLICATE_ROW_KEY", "")));
    assert_eq!(told.totals().accepted, 1);
    assert_eq!(stage.row(&[OTHER, "second"]).await, (0, 0));

    let header = UploadHeader {
        duplicate_row_keys: DuplicateRule::Warn.into(),
        ..direct("")
    };
    let (stage, told) = upload(header, &rows).await;
    assert_eq!(told.totals().accepted, 2);
    let mut all: Vec<_> = told.results.iter().map(warned).collect();
    all.sort_unstable();
    assert_eq!(all, [vec![], vec!["DUPLICATE_ROW_KEY"]]);
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["accepted"], 2);
}

#[tokio::test]
async fn the_very_same_row_is_sent_once_and_answered_twice() {
    for rule in [DuplicateRule::Unspecified, DuplicateRule::Warn] {
        let header = UploadHeader {
            duplicate_row_keys: rule.into(),
            duplicate_numbers: rule.into(),
            ..direct("")
        };
        let rows = [
            row("a", &[NUMBER, "n"]),
            row("b", &[OTHER, "n"]),
            row("a", &[NUMBER, "n"]),
        ];
        let (stage, told) = upload(header, &rows).await;
        let results = all_of(&told, "a");
        assert_eq!(results.len(), 2);
        assert_eq!(outcome(results[0]), outcome(results[1]));
        assert!(matches!(outcome(results[0]), Row::Taken(_)));
        let known: usize = results.iter().map(|it| usize::from(it.known_before)).sum();
        assert_eq!(known, 1);
        assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 2);
    }
}

fn faults(status: &Status) -> Vec<String> {
    assert_eq!(reason(status).0, Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    violations.iter().map(|fault| fault.field.clone()).collect()
}

#[tokio::test]
async fn a_header_that_is_not_right_is_refused_with_its_faults() {
    let stage = Stage::set(silent(), "").await;
    let client = stage.outbound();
    let no_robot = DirectCall {
        line_num: "69101338".into(),
        ..DirectCall::default()
    };
    let with = |change: &dyn Fn(&mut UploadHeader)| {
        let mut header = direct("");
        change(&mut header);
        header
    };
    let wrong = [
        ("target", with(&|header| header.target = None)),
        ("task_id", into_task("", "")),
        (
            "robot_id",
            with(&|header| header.target = Some(Target::Direct(no_robot.clone()))),
        ),
        ("call_column", with(&|header| header.call_column.clear())),
        ("upload_id", direct(&"u".repeat(129))),
        (
            "duplicate_numbers",
            with(&|header| header.duplicate_numbers = 99),
        ),
    ];
    for (field, wrong) in wrong {
        let told = submit(&client, wrong, &[row("a", &[NUMBER, "n"])]).await;
        let status = told.end.unwrap_err();
        let found = faults(&status);
        assert!(
            found.iter().any(|it| it.contains(field)),
            "{field}: {found:?}"
        );
    }

    let all = [good(1)];
    for wrong in [
        vec![rows(&all)],
        vec![header(into_task("", "129")), header(into_task("", "129"))],
        vec![SubmitRowsRequest::default()],
    ] {
        let told = submit_messages(&client, wrong).await;
        assert!(!faults(&told.end.unwrap_err()).is_empty());
    }
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 0);
}

#[tokio::test]
async fn an_upload_id_is_good_for_one_target_and_its_columns() {
    let stage = Stage::set(silent(), "").await;
    let client = stage.outbound();
    let task = stage.task("first").await;
    let other = stage.task("other").await;
    let all = [good(1), good(2)];
    let told = submit(&client, into_task("u", &task), &all).await;
    assert_eq!(told.totals().accepted, 2);
    let columns = UploadHeader {
        call_column: vec!["客户手机号码".into(), "列3".into(), "列2".into()],
        ..into_task("u", &task)
    };
    for header in [into_task("u", &other), direct("u"), columns] {
        let told = submit_messages(&client, messages(header, &[good(3)])).await;
        let (code, reason, domain) = reason(&told.end.unwrap_err());
        assert_eq!(
            (code, &*reason, &*domain),
            (Code::InvalidArgument, "UPLOAD_ID_REUSED", "yeta-gateway")
        );
    }
    let told = submit(&client, into_task("u", &task), &[good(3)]).await;
    assert_eq!(told.totals().accepted, 1);
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["accepted"], 3);
}
