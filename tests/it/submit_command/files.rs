//! What files can be like, and what of them reaches the gateway.

use rust_xlsxwriter::{ExcelDateTime, Format, Workbook};
use yeta_gateway::proto::upload_header::Target;
use yeta_gateway::proto::{DirectCall, DuplicateRule};

use super::{CALL, Place, assert_no_numbers, good_rows};

const TEXT: &str = "客户手机号码,姓名\n13800000001,張三\n\n13800000002,\"李,四\"\n";

#[tokio::test]
async fn rows_in_each_encoding_reach_the_gateway_alike() {
    let place = Place::new().await;
    place.write("utf8.csv", TEXT);
    place.write("bom.csv", format!("\u{feff}{TEXT}"));
    let (gb18030, _, _) = encoding_rs::GB18030.encode(TEXT);
    place.write("gb18030.csv", gb18030);
    for file in ["utf8.csv", "bom.csv", "gb18030.csv"] {
        let ran = place.call(&[file]).await;
        assert_eq!(ran.code, Some(0), "{file}: {}", ran.err);
        let expected = [["13800000001", "張三"], ["13800000002", "李,四"]];
        assert_eq!(place.received(), expected, "{file}");
        assert_eq!(place.keys(), ["2", "4"], "{file}");
        let columns = place
            .fake
            .book
            .lock()
            .unwrap()
            .headers
            .pop()
            .unwrap()
            .call_column;
        assert_eq!(columns, ["客户手机号码", "姓名"]);
    }
    assert_eq!(place.files(), ["bom.csv", "gb18030.csv", "utf8.csv"]);
}

#[tokio::test]
async fn a_workbook_comes_as_its_reader_sees_it() {
    let place = Place::new().await;
    let mut book = Workbook::new();
    book.add_worksheet().write(0, 0, "not this one").unwrap();
    let sheet = book.add_worksheet();
    sheet.set_name("名单").unwrap();
    let columns = ["客户手机号码", "姓名", "日期", "时间", "金额"];
    sheet.write_row(0, 0, columns).unwrap();
    let date = Format::new().set_num_format("yyyy/m/d");
    let time = Format::new().set_num_format("yyyy/m/d hh:mm");
    let at = ExcelDateTime::from_ymd(2026, 11, 21).unwrap();
    sheet.write(1, 0, 13_800_000_001_f64).unwrap();
    sheet.write(1, 1, "張三").unwrap();
    sheet.write_with_format(1, 2, &at, &date).unwrap();
    let at = at.and_hms(9, 30, 0).unwrap();
    sheet.write_with_format(1, 3, &at, &time).unwrap();
    sheet.write(1, 4, 0.1 + 0.2).unwrap();
    // A blank row, and one that ends early.
    sheet.write(3, 0, "13800000002").unwrap();
    book.save(place.path("rows.xlsx")).unwrap();
    let ran = place.call(&["rows.xlsx", "--sheet", "名单"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let expected = [
        [
            "13800000001",
            "張三",
            "2026-11-21",
            "2026-11-21 09:30:00",
            "0.3",
        ],
        ["13800000002", "", "", "", ""],
    ];
    assert_eq!(place.received(), expected);
    assert_eq!(place.keys(), ["2", "4"]);
    let ran = place.call(&["rows.xlsx", "--sheet", "nowhere"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("there are: Sheet1, 名单"), "{}", ran.err);
}

#[tokio::test]
async fn the_number_goes_first_and_the_row_key_is_no_value_unless_it_is_kept() {
    let place = Place::new().await;
    place.write(
        "rows.csv",
        "编号,姓名,号码\nA7,张,13800000001\nA8,李,13800000002\n",
    );
    let by_name = ["rows.csv", "--phone-column", "号码", "--row-key", "编号"];
    let ran = place.call(&by_name).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(
        place.received(),
        [["13800000001", "张"], ["13800000002", "李"]]
    );
    assert_eq!(place.keys(), ["A7", "A8"]);
    let kept = [&by_name[..], &["--keep-row-key", "--upload-id", "other"]].concat();
    assert_eq!(place.call(&kept).await.code, Some(0));
    assert_eq!(place.received()[0], ["13800000001", "A7", "张"]);
    let ran = place.call(&["rows.csv", "--row-key", "nowhere"]).await;
    assert!(
        ran.err.contains("there are: 编号, 姓名, 号码"),
        "{}",
        ran.err
    );
    let ran = place.call(&["rows.csv", "--row-key", "编号"]).await;
    assert!(ran.err.contains("say with --phone-column"), "{}", ran.err);
    let ran = place
        .call(&["rows.csv", "--row-key", "号码", "--phone-column", "号码"])
        .await;
    assert!(ran.err.contains("no row key"), "{}", ran.err);
}

#[tokio::test]
async fn the_header_tells_where_rows_go_and_how_they_are_read() {
    let place = Place::new().await;
    place.write("rows.csv", TEXT);
    let more = ["rows.csv", "--voice", "60020", "--speed", "-100"];
    let more = [
        &more[..],
        &["--duplicate-numbers", "warn", "--upload-id", "mine"],
    ]
    .concat();
    assert_eq!(place.call(&more).await.code, Some(0));
    let task = [
        "task",
        "submit",
        "--task",
        "12",
        "rows.csv",
        "--duplicate-row-keys",
        "refuse",
    ];
    assert_eq!(place.run(&task).await.code, Some(0));
    let headers = place.fake.book.lock().unwrap().headers.clone();
    let call = DirectCall {
        robot_id: "719".into(),
        line_num: "055169101407".into(),
        voice_code: "60020".into(),
        robot_speed: Some(-100),
    };
    assert_eq!(headers[0].target, Some(Target::Direct(call)));
    assert_eq!(headers[0].upload_id, "mine");
    assert_eq!(headers[0].duplicate_numbers(), DuplicateRule::Warn);
    assert_eq!(headers[0].duplicate_row_keys(), DuplicateRule::Unspecified);
    assert_eq!(headers[1].target, Some(Target::TaskId("12".into())));
    assert_eq!(headers[1].duplicate_row_keys(), DuplicateRule::Refuse);
}

#[tokio::test]
async fn an_upload_is_named_after_the_rows_and_where_they_go_and_nothing_else() {
    let place = Place::new().await;
    place.write("rows.csv", TEXT);
    place.write("copy.csv", TEXT);
    place.write("longer.csv", format!("{TEXT}13800000003,王\n"));
    let id = async |arguments: &[&str]| {
        let ran = place
            .run(&[arguments, &["--dry-run", "--json"]].concat())
            .await;
        let plan: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        plan["uploadId"].as_str().unwrap().to_owned()
    };
    let named = id(&[&CALL[..], &["rows.csv"]].concat()).await;
    let same = [
        "copy.csv",
        "--duplicate-numbers",
        "warn",
        "--row-key",
        "姓名",
        "--speed",
        "9",
    ];
    assert_eq!(id(&[&CALL[..], &same].concat()).await, named);
    assert_ne!(id(&[&CALL[..], &["longer.csv"]].concat()).await, named);
    let elsewhere = [
        "call",
        "submit",
        "rows.csv",
        "--robot",
        "720",
        "--line",
        "055169101407",
    ];
    assert_ne!(id(&elsewhere).await, named);
    assert_ne!(
        id(&["task", "submit", "rows.csv", "--task", "12"]).await,
        named
    );
}

#[tokio::test]
async fn a_dry_run_sends_nothing_and_masks_numbers() {
    let place = Place::new().await;
    place.write("rows.csv", format!("{TEXT}13800000003\n"));
    let ran = place.call(&["rows.csv", "--dry-run"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    for told in [
        "UTF-8",
        "客户手机号码, 姓名",
        "robot 719",
        "138****0001",
        "張三",
        "file-",
    ] {
        assert!(ran.out.contains(told), "{told} in {}", ran.out);
    }
    assert_no_numbers(&ran.out);
    place.write("good.csv", good_rows(5));
    assert_eq!(place.call(&["good.csv", "--dry-run"]).await.code, Some(0));
    assert!(place.fake.book.lock().unwrap().headers.is_empty());
}

#[tokio::test]
async fn a_file_without_a_header_is_refused_and_none_of_its_numbers_told() {
    let place = Place::new().await;
    place.write("rows.csv", "13800000001,张\n13800000002,李\n");
    for arguments in [&["rows.csv"][..], &["rows.csv", "--row-key", "x"]] {
        let ran = place.call(arguments).await;
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.err.contains("not the names of the columns"),
            "{}",
            ran.err
        );
        assert_no_numbers(&ran.err);
    }
    assert!(place.fake.book.lock().unwrap().headers.is_empty());
}
