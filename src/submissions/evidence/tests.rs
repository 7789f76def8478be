use proptest::prelude::*;

use super::*;
use crate::proto::{CallOutRequest, CallRecordVariant, InsertTaskDataRequest};

/// When the submissions of these tests were recorded.
const CREATED: i64 = 1_700_000_000_500;

const COLUMNS: [&str; 3] = ["客户手机号码", "姓名", "金额"];
const LI: [&str; 3] = ["13800138000", "Li", "12"];
const WANG: [&str; 3] = ["13900139000", "Wang", ""];

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn rows(rows: &[[&str; 3]]) -> Vec<Row> {
    let rows = rows.iter();
    rows.map(|row| Row { values: texts(row) }).collect()
}

fn call_out(list: &[[&str; 3]]) -> Request {
    Request::CallOut(CallOutRequest {
        call_column: texts(&COLUMNS),
        call_list: rows(list),
        ..CallOutRequest::default()
    })
}

fn insert(task_id: &str, list: &[[&str; 3]]) -> Request {
    Request::InsertTaskData(InsertTaskDataRequest {
        task_id: task_id.to_owned(),
        call_column: texts(&COLUMNS),
        call_list: rows(list),
        ..InsertTaskDataRequest::default()
    })
}

/// The rows that a record fits, and how.
fn fits(request: &Request, record: &CallRecord) -> Vec<(usize, Match)> {
    let created_at_ms = u64::try_from(CREATED).unwrap();
    let numbers = Numbers::default();
    let rows = 0..Rows::of(request).map_or(0, |rows| rows.list.len());
    rows.filter_map(|row| Some((row, fit(request, row, created_at_ms, record, numbers)?)))
        .collect()
}

/// The only row that a record fits.
fn row_of(request: &Request, record: &CallRecord) -> Option<usize> {
    match fits(request, record).as_slice() {
        [(row, _)] => Some(*row),
        _ => None,
    }
}

/// The outbound record of a row's call.
fn outbound(values: &[&str]) -> CallRecord {
    CallRecord {
        variant: CallRecordVariant::Outbound.into(),
        callee: values[0].to_owned(),
        task_data_id: "346252615123869699".to_owned(),
        time_dial: Some(CREATED + 3000),
        task_row_head: texts(&COLUMNS),
        task_row_value: texts(values),
        ..CallRecord::default()
    }
}

/// The basic record of a call.
fn basic(callee: &str) -> CallRecord {
    CallRecord {
        variant: CallRecordVariant::Basic.into(),
        task_row_head: Vec::new(),
        task_row_value: Vec::new(),
        ..outbound(&[callee])
    }
}

#[test]
fn a_record_is_about_the_row_whose_values_it_has() {
    let change = |change: fn(&mut CallRecord)| {
        let mut record = outbound(&WANG);
        change(&mut record);
        record
    };
    let table = [
        ("as sent", change(|_| {}), Some(1)),
        (
            "columns in another order",
            change(|it| {
                it.task_row_head.reverse();
                it.task_row_value.reverse();
            }),
            Some(1),
        ),
        (
            "without heads",
            change(|it| it.task_row_head.clear()),
            Some(1),
        ),
        (
            "heads that are no list",
            change(|it| it.task_row_head.truncate(1)),
            Some(1),
        ),
        (
            "without the empty value",
            change(|it| {
                it.task_row_head.truncate(2);
                it.task_row_value.truncate(2);
            }),
            Some(1),
        ),
        (
            "white space and another spelling of the number",
            change(|it| it.task_row_value = texts(&["+86 139 0013 9000", " Wang ", " "])),
            Some(1),
        ),
        (
            "another value",
            change(|it| it.task_row_value[1] = "Wáng".to_owned()),
            None,
        ),
        (
            "a value that was not sent",
            change(|it| it.task_row_value[2] = "9".to_owned()),
            None,
        ),
        (
            "a column that was not sent",
            change(|it| {
                it.task_row_head.push("城市".to_owned());
                it.task_row_value.push("合肥".to_owned());
            }),
            None,
        ),
        (
            "the values under each other's heads",
            change(|it| it.task_row_value.swap(1, 2)),
            None,
        ),
        (
            "no id of the row",
            change(|it| it.task_data_id.clear()),
            None,
        ),
        (
            "an id that is none",
            change(|it| it.task_data_id = "0".to_owned()),
            None,
        ),
        (
            "the direction wrong, as in the documents",
            change(|it| it.set_direction(CallDirection::Inbound)),
            Some(1),
        ),
    ];
    for (what, record, row) in table {
        let how = if what.contains("heads") {
            Match::Number
        } else {
            Match::Values
        };
        let how = if what == "the values under each other's heads" {
            Match::Values
        } else {
            how
        };
        let expected: Vec<_> = row.map(|row| (row, how)).into_iter().collect();
        assert_eq!(fits(&call_out(&[LI, WANG]), &record), expected, "{what}");
    }
}

#[test]
fn a_record_without_values_fits_each_row_with_its_number_and_no_better_than_that() {
    let same_number = [LI, WANG, ["139-0013-9000", "Zhao", ""]];
    let landline = [["010-62345678", "", ""]];
    let table = [
        (&[LI, WANG][..], basic("13900139000"), &[1][..]),
        (&[LI, WANG], basic("+8613900139000"), &[1]),
        (&[LI, WANG], basic("013900139000"), &[1]),
        (&[LI, WANG], basic("8613900139000"), &[1]),
        (&[LI, WANG], basic("13700137000"), &[]),
        (&[LI, WANG], basic(""), &[]),
        (&same_number, basic("13900139000"), &[1, 2]),
        (&same_number, basic("13800138000"), &[0]),
        (&landline, basic("01062345678"), &[0]),
        (&landline, basic("+861062345678"), &[0]),
    ];
    for (at, (rows, record, expected)) in table.into_iter().enumerate() {
        let expected: Vec<_> = expected.iter().map(|row| (*row, Match::Number)).collect();
        assert_eq!(fits(&call_out(rows), &record), expected, "line {at}");
    }
    let mut inbound = basic("13900139000");
    inbound.set_direction(CallDirection::Inbound);
    assert_eq!(fits(&call_out(&[LI, WANG]), &inbound), []);
}

#[test]
fn only_a_call_dialled_in_time_and_a_record_that_names_the_task_can_settle() {
    let created = u64::try_from(CREATED).unwrap();
    let dialled = |ms: i64| CallRecord {
        time_dial: Some(CREATED + ms),
        task_id: "7".to_owned(),
        ..outbound(&LI)
    };
    let table = [
        (call_out(&[LI]), dialled(0), true),
        (call_out(&[LI]), dialled(7_200_000), true),
        (call_out(&[LI]), dialled(7_200_001), false),
        (insert("7", &[LI]), dialled(30 * 24 * 3_600_000), true),
        (insert("8", &[LI]), dialled(0), false),
        (insert("", &[LI]), dialled(0), false),
    ];
    for (at, (request, record, expected)) in table.into_iter().enumerate() {
        let found = is_in_time(&request, created, &record, 7_200_000);
        assert_eq!(found, expected, "line {at}");
    }
}

#[test]
fn rows_are_twins_if_one_record_could_be_of_either() {
    let written_otherwise = [["+86 138 0013 8000", " Li", "12 "]];
    let table = [
        (call_out(&[LI]), call_out(&[LI]), true),
        (call_out(&[LI]), call_out(&written_otherwise), true),
        (call_out(&[LI]), call_out(&[WANG]), false),
        (call_out(&[LI]), insert("7", &[LI]), true),
        (insert("7", &[LI]), insert("7", &[LI]), true),
        (insert("7", &[LI]), insert("8", &[LI]), false),
    ];
    for (at, (a, b, expected)) in table.into_iter().enumerate() {
        let numbers = Numbers::default();
        assert_eq!(are_twins((&a, 0), (&b, 0), numbers), expected, "line {at}");
    }
}

#[test]
fn the_task_must_fit_where_both_are_known() {
    let record = |task_id: &str| CallRecord {
        task_id: task_id.to_owned(),
        ..outbound(&LI)
    };
    assert_eq!(row_of(&insert("7", &[LI]), &record("7")), Some(0));
    assert_eq!(row_of(&insert("7", &[LI]), &record("0")), Some(0));
    assert_eq!(row_of(&insert("7", &[LI]), &record("")), Some(0));
    assert_eq!(row_of(&insert("7", &[LI]), &record("8")), None);
    // Direct calls are made under a task that the request does not name.
    assert_eq!(row_of(&call_out(&[LI]), &record("8")), Some(0));
}

#[test]
fn a_call_dialled_before_the_request_is_not_of_it() {
    let none = CallRecord {
        time_dial: None,
        ..outbound(&LI)
    };
    let dial = |ms: i64| CallRecord {
        time_dial: Some(CREATED + ms),
        ..none.clone()
    };
    let table = [
        (dial(0), true),
        // Rounded, and by a clock that is a little behind.
        (dial(-1500), true),
        (dial(-60_000), true),
        (dial(-60_001), false),
        (dial(-3_600_000), false),
        (none.clone(), false),
        (
            CallRecord {
                time_dial: Some(0),
                time_ring: Some(CREATED - 61_000),
                ..none.clone()
            },
            false,
        ),
        (
            CallRecord {
                time_answer: Some(CREATED + 8000),
                duration_ring: Some(7),
                ..none.clone()
            },
            true,
        ),
        (
            CallRecord {
                time_hangup: Some(CREATED - 30_000),
                duration_ring: Some(7),
                duration_call: Some(40),
                ..none.clone()
            },
            false,
        ),
        (
            CallRecord {
                time_hangup: Some(CREATED + 50_000),
                duration_ring: Some(7),
                duration_call: Some(40),
                ..none.clone()
            },
            true,
        ),
    ];
    for (at, (record, is_of_it)) in table.into_iter().enumerate() {
        let row = row_of(&call_out(&[LI]), &record);
        assert_eq!(row.is_some(), is_of_it, "line {at}");
    }
}

#[test]
fn a_task_is_known_by_its_name_robot_lines_and_time() {
    let request = CreateTaskRequest {
        task_name: "七月回访".to_owned(),
        line_num: "055112345678;055187654321".to_owned(),
        robot_id: "2745001".to_owned(),
        time_begin: 1_700_000_000_123,
        ..CreateTaskRequest::default()
    };
    let task = |id: &str, change: fn(&mut Task)| {
        let mut task = Task {
            task_id: id.to_owned(),
            task_name: request.task_name.clone(),
            line_num: "055187654321, 055112345678".to_owned(),
            robot_id: request.robot_id.clone(),
            time_task_estimate_begin: Some(1_700_000_000_000),
            ..Task::default()
        };
        change(&mut task);
        task
    };
    let others = [
        task("10", |it| it.task_name.push('2')),
        task("11", |it| it.robot_id = "2745002".to_owned()),
        task("12", |it| it.line_num = "055112345678".to_owned()),
        task("13", |it| it.line_num.push_str(",0551")),
        task("14", |it| {
            it.time_task_estimate_begin = Some(1_700_000_002_000);
        }),
        task("15", |it| it.time_task_estimate_begin = None),
        task("16", |it| it.deleted = Some(true)),
        task("", |_| {}),
    ];
    for task in others {
        assert!(!is_task_of(&request, &task), "{task:?}");
    }
    let same = task("20", |it| it.deleted = Some(false));
    let rounded = task("21", |it| {
        it.time_task_estimate_begin = Some(1_700_000_001_000);
    });
    assert!(is_task_of(&request, &same) && is_task_of(&request, &rounded));
    let other = CreateTaskRequest {
        time_begin: request.time_begin + 1500,
        ..request.clone()
    };
    assert!(are_same_task(&request, &other));
    let other = CreateTaskRequest {
        robot_id: "2745002".to_owned(),
        ..request.clone()
    };
    assert!(!are_same_task(&request, &other));
}

proptest! {
    #[test]
    fn a_record_with_a_rows_values_finds_that_row_in_any_order_of_columns(
        (values, order) in (1..6_usize).prop_flat_map(|columns| (
            prop::collection::vec(prop::collection::vec("[ 0-9a-c张]{0,3}", columns), 1..8),
            Just((0..columns).collect::<Vec<_>>()).prop_shuffle(),
        )),
        pick in any::<prop::sample::Index>(),
    ) {
        let columns: Vec<_> = (0..order.len()).map(|at| format!("column {at}")).collect();
        let picked = &values[pick.index(values.len())];
        let record = CallRecord {
            task_row_head: order.iter().map(|&at| columns[at].clone()).collect(),
            task_row_value: order.iter().map(|&at| picked[at].clone()).collect(),
            ..outbound(&LI)
        };
        let request = CallOutRequest {
            call_column: columns,
            call_list: values.iter().map(|row| Row { values: row.clone() }).collect(),
            ..CallOutRequest::default()
        };
        let found = fits(&Request::CallOut(request), &record);
        let found = found.first().map(|(row, _)| &values[*row]);
        let key = |text: &str| Numbers::default().key(text);
        let same = |row: &Vec<String>| {
            row.iter().zip(picked).enumerate().all(|(at, (one, other))| {
                one.trim() == other.trim()
                    || (at == 0 && key(one).is_some() && key(one) == key(other))
            })
        };
        prop_assert!(found.is_some_and(same), "{:?} for {:?}", found, picked);
    }

    #[test]
    fn no_time_upsets_the_reading(
        dial in any::<Option<i64>>(),
        answer in any::<Option<i64>>(),
        hangup in any::<Option<i64>>(),
        ring in any::<Option<i32>>(),
    ) {
        let record = CallRecord {
            time_dial: dial,
            time_answer: answer,
            time_hangup: hangup,
            duration_ring: ring,
            ..outbound(&LI)
        };
        if row_of(&call_out(&[LI]), &record).is_some() {
            let latest = dial.max(answer).max(hangup);
            prop_assert!(latest.is_some_and(|time| time >= CREATED - SLACK_MS));
        }
    }
}
