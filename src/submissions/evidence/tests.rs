use proptest::prelude::*;

use super::*;
use crate::proto::{CallOutRequest, CallRecordVariant, InsertTaskDataRequest, SubmissionOperation};

/// When the submissions of these tests were written down.
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

fn submission(operation: SubmissionOperation, request: Request) -> Submission {
    Submission {
        operation: operation.into(),
        created_at: Some(prost_types::Timestamp {
            seconds: CREATED / 1000,
            nanos: 500_000_000,
        }),
        request: Some(request),
        ..Submission::default()
    }
}

fn call_out(list: &[[&str; 3]]) -> Submission {
    let request = CallOutRequest {
        call_column: texts(&COLUMNS),
        call_list: rows(list),
        ..CallOutRequest::default()
    };
    submission(SubmissionOperation::CallOut, Request::CallOut(request))
}

fn insert(task_id: &str, list: &[[&str; 3]]) -> Submission {
    let request = InsertTaskDataRequest {
        task_id: task_id.to_owned(),
        call_column: texts(&COLUMNS),
        call_list: rows(list),
        ..InsertTaskDataRequest::default()
    };
    let request = Request::InsertTaskData(request);
    submission(SubmissionOperation::InsertTaskData, request)
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

fn tell(submission: &mut Submission, row: i32, task_data_id: &str) {
    submission.evidence.push(SubmissionEvidence {
        kind: SubmissionEvidenceKind::CallRecord.into(),
        task_data_id: task_data_id.to_owned(),
        row,
        ..SubmissionEvidence::default()
    });
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
        assert_eq!(row_of(&call_out(&[LI, WANG]), &record), row, "{what}");
    }
}

#[test]
fn a_record_without_values_is_about_the_only_row_with_its_number() {
    let same_number = [LI, WANG, ["139-0013-9000", "Zhao", ""]];
    let landline = [["010-62345678", "", ""]];
    let table = [
        (&[LI, WANG][..], basic("13900139000"), Some(1)),
        (&[LI, WANG], basic("+8613900139000"), Some(1)),
        (&[LI, WANG], basic("013900139000"), Some(1)),
        (&[LI, WANG], basic("8613900139000"), Some(1)),
        (&[LI, WANG], basic("13700137000"), None),
        (&[LI, WANG], basic(""), None),
        (&same_number, basic("13900139000"), None),
        (&same_number, basic("13800138000"), Some(0)),
        (&landline, basic("01062345678"), Some(0)),
        (&landline, basic("+861062345678"), Some(0)),
    ];
    for (at, (rows, record, row)) in table.into_iter().enumerate() {
        assert_eq!(row_of(&call_out(rows), &record), row, "line {at}");
    }
    let mut inbound = basic("13900139000");
    inbound.set_direction(CallDirection::Inbound);
    assert_eq!(row_of(&call_out(&[LI, WANG]), &inbound), None);
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
fn identical_rows_are_told_one_by_one_and_a_redial_again() {
    let mut it = call_out(&[LI, WANG, LI]);
    let call = |id: &str| CallRecord {
        task_data_id: id.to_owned(),
        ..outbound(&LI)
    };
    assert_eq!(row_of(&it, &call("100")), Some(0));
    tell(&mut it, 0, "100");
    assert_eq!(row_of(&it, &call("100")), Some(0));
    assert_eq!(row_of(&it, &call("102")), Some(2));
    tell(&mut it, 2, "102");
    assert_eq!(row_of(&it, &call("102")), Some(2));
    assert_eq!(row_of(&it, &call("103")), None);
}

#[test]
fn a_task_is_told_by_its_name_robot_lines_and_time() {
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
        task("17", |_| {}),
        task("", |_| {}),
    ];
    let found = |more: &[Task]| {
        let tasks = [&others[..], more].concat();
        tasks_of(&request, &tasks, |id| id == "17")
    };
    assert_eq!(found(&[]), Tasks::None);
    let one = task("20", |it| it.deleted = Some(false));
    let rounded = task("21", |it| {
        it.time_task_estimate_begin = Some(1_700_000_001_000);
    });
    assert_eq!(
        found(std::slice::from_ref(&one)),
        Tasks::One("20".to_owned())
    );
    assert_eq!(
        found(std::slice::from_ref(&rounded)),
        Tasks::One("21".to_owned())
    );
    // The same one, on two pages.
    let twice = found(&[one.clone(), one.clone()]);
    assert_eq!(twice, Tasks::One("20".to_owned()));
    let several = found(&[one.clone(), rounded, one]);
    assert_eq!(several, Tasks::Several(texts(&["20", "21"])));
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
        let it = submission(SubmissionOperation::CallOut, Request::CallOut(request));
        let found = row_of(&it, &record).map(|row| &values[row]);
        let same = |row: &Vec<String>| {
            row.iter().zip(picked).enumerate().all(|(at, (one, other))| {
                one.trim() == other.trim()
                    || (at == 0 && number_key(one).is_some() && number_key(one) == number_key(other))
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
