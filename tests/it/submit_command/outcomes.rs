//! What is said of rows, and where the rejected ones go.

use super::{Place, assert_no_numbers};

const MIXED: &str = "客户手机号码,备注,姓名\n\
    13800000001,\"a,b\",张\n\
    13800000002,,bad\n\
    13800000003,,lost\n\
    13800000004\n\
    13800000005,x,odd\n\
    13800000006,,bad\n";

const REJECTED: &str = "客户手机号码,备注,姓名,reason,message,line\n\
    13800000002,,bad,BAD_PHONE_NUMBER,号码13800000002不合规,3\n\
    13800000003,,lost,OUTCOME_UNKNOWN,号码13800000003不合规 (it may have been called: do not \
    submit it again),4\n\
    13800000004,,,ROW_MISMATCH,1 values for 3 columns,5\n\
    13800000006,,bad,BAD_PHONE_NUMBER,号码13800000006不合规,7\n";

/// Rows come back in any order.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines[1..].sort_unstable();
    lines
}

#[tokio::test]
async fn rows_that_were_not_accepted_are_beside_the_file_with_their_reasons() {
    let place = Place::new().await;
    place.write("rows.csv", MIXED);
    let ran = place.call(&["rows.csv"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_eq!(place.fake.called(), ["13800000001", "13800000005"]);
    assert_eq!(place.files(), ["rows.csv", "rows.rejected.csv"]);
    let rejected = place.rejected("rows.rejected.csv").unwrap();
    assert_eq!(sorted(&rejected), sorted(REJECTED));
    for told in [
        "BAD_PHONE_NUMBER",
        "ROW_MISMATCH",
        "warned: DUPLICATE_NUMBER",
        "file-",
    ] {
        assert!(ran.out.contains(told), "{told} in {}", ran.out);
    }
    assert!(
        ran.out.contains("1 rows were sent and not answered"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("rows.rejected.csv"), "{}", ran.out);
    assert_no_numbers(&ran.out);
    assert_no_numbers(&ran.err);
}

#[tokio::test]
async fn json_is_one_object_with_every_count() {
    let place = Place::new().await;
    place.write("rows.csv", MIXED);
    let (code, told) = place
        .call_json(&["rows.csv", "--rejected", "elsewhere.csv"])
        .await;
    assert_eq!(code, Some(1));
    assert_eq!(told["finished"], true);
    assert_eq!(told["rows"], 6);
    assert_eq!(told["accepted"], 2);
    assert_eq!(told["knownBefore"], 0);
    assert_eq!(told["refused"], 3);
    let reasons = serde_json::json!({ "BAD_PHONE_NUMBER": 2, "ROW_MISMATCH": 1 });
    assert_eq!(told["refusedByReason"], reasons);
    assert_eq!(told["unknown"], 1);
    assert_eq!(told["warnings"]["DUPLICATE_NUMBER"], 1);
    assert_eq!(told["rejectedFile"], "elsewhere.csv");
    assert_eq!(place.files(), ["elsewhere.csv", "rows.csv"]);
}

#[tokio::test]
async fn rejected_rows_can_be_submitted_again_but_for_those_that_may_have_been_called() {
    let place = Place::new().await;
    place.write("rows.csv", MIXED);
    place.call(&["rows.csv"]).await;
    let rejected = place.rejected("rows.rejected.csv").unwrap();
    let corrected = rejected.replace(",bad,", ",好,").replace(",lost,", ",好,");
    place.write("corrected.csv", corrected);
    let (code, told) = place.call_json(&["corrected.csv"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(told["accepted"], 3);
    assert_eq!(told["unknown"], 1);
    let columns = place
        .fake
        .book
        .lock()
        .unwrap()
        .headers
        .pop()
        .unwrap()
        .call_column;
    assert_eq!(columns, ["客户手机号码", "备注", "姓名"]);
    assert!(!place.fake.called().contains(&"13800000003".to_owned()));
    let left = place.rejected("corrected.rejected.csv").unwrap();
    assert_eq!(left.lines().count(), 2);
    assert!(left.contains("13800000003,,好,OUTCOME_UNKNOWN"), "{left}");
    // Also where not all that was added is still there.
    place.write("partly.csv", "号码,reason\n13800000003,OUTCOME_UNKNOWN\n");
    let (_, told) = place.call_json(&["partly.csv"]).await;
    assert_eq!(told["unknown"], 1);
    assert!(!place.fake.called().contains(&"13800000003".to_owned()));
}

#[tokio::test]
async fn a_row_too_long_for_any_message_is_rejected_alone() {
    let place = Place::new().await;
    let long = "长".repeat(2 << 20);
    let rows = format!("号码,姓名\n13800000001,{long}\n13800000002,张\n");
    place.write("rows.csv", rows);
    let (code, told) = place.call_json(&["rows.csv"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(told["refusedByReason"]["ROW_TOO_LONG"], 1);
    assert_eq!(place.fake.called(), ["13800000002"]);
}

#[tokio::test]
async fn an_earlier_file_of_rejected_rows_goes_once_there_are_none() {
    let place = Place::new().await;
    place.write("rows.csv", "号码,姓名\n13800000001,张\n");
    place.write("rows.rejected.csv", "of an earlier run");
    assert_eq!(place.call(&["rows.csv"]).await.code, Some(0));
    assert_eq!(place.files(), ["rows.csv"]);
}

#[tokio::test]
async fn the_submitted_file_is_never_replaced_by_its_rejected_rows() {
    let place = Place::new().await;
    place.write("rows.csv", MIXED);
    let ran = place.call(&["rows.csv", "--rejected", "./rows.csv"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("would replace"), "{}", ran.err);
    assert_eq!(
        std::fs::read_to_string(place.path("rows.csv")).unwrap(),
        MIXED
    );
    assert!(place.fake.book.lock().unwrap().headers.is_empty());
}
