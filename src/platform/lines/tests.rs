//! What is learnt of lines, and what is made of it.

use super::*;

fn row(task_id: &str, line_num: &str, status: TaskStatus) -> Task {
    Task {
        task_id: task_id.into(),
        task_name: format!("name of {task_id}"),
        line_num: line_num.into(),
        status: status.into(),
        ..Task::default()
    }
}

fn call_out(line_num: &str) -> LineUse {
    LineUse::CallOut {
        line_num: line_num.into(),
    }
}

fn start(task_id: &str) -> LineUse {
    LineUse::Start {
        task_id: task_id.into(),
    }
}

/// A line, and the task that has it with its state.
type Told = (String, Option<(String, &'static str)>);

fn told(lines: &Lines, used: &LineUse) -> Option<Told> {
    let occupation = lines.occupation(used)?;
    let task = occupation.task.map(|task| (task.task_id, task.task_status));
    Some((occupation.line_num, task))
}

fn held_by(line: &str, task_id: &str, status: &'static str) -> Told {
    (line.into(), Some((task_id.into(), status)))
}

#[test]
fn a_task_has_its_lines_from_its_start_until_its_end() {
    let lines = Lines::default();
    let create = LineUse::Create {
        line_num: "69101338;69101339".into(),
        task_name: "回访".into(),
    };
    lines.learn(&create, Seen::Created("12"));
    let nobody = Some(("69101339".to_owned(), None));
    assert_eq!(told(&lines, &call_out("69101339")), nobody);
    lines.learn(&start("12"), Seen::Nothing);
    let held = Some(held_by("69101339", "12", "started"));
    assert_eq!(told(&lines, &call_out("69101339")), held);
    let task_id = || "12".to_owned();
    lines.learn(&LineUse::Pause { task_id: task_id() }, Seen::Nothing);
    let held = Some(held_by("69101339", "12", "paused"));
    assert_eq!(told(&lines, &call_out("69101339")), held);
    lines.learn(&LineUse::Delete { task_id: task_id() }, Seen::Nothing);
    assert_eq!(told(&lines, &call_out("69101339")), nobody);
}

#[test]
fn a_task_query_tells_who_has_a_line_and_who_has_it_no_more() {
    let lines = Lines::default();
    let rows = [
        row("1", "055169101407, 055169101408", TaskStatus::Running),
        row("2", "69101338", TaskStatus::Completed),
        row("3", "69101338", TaskStatus::New),
        row("4", "", TaskStatus::Running),
    ];
    lines.learn(&LineUse::None, Seen::Tasks(&rows));
    let held = Some(held_by("055169101408", "1", "running"));
    assert_eq!(told(&lines, &call_out("055169101408")), held);
    assert_eq!(
        told(&lines, &call_out("69101408")),
        held,
        "without area code"
    );
    assert_eq!(told(&lines, &call_out("1408")), Some(("1408".into(), None)));
    let nobody = Some(("69101338".to_owned(), None));
    assert_eq!(told(&lines, &call_out("69101338")), nobody);
    assert_eq!(told(&lines, &start("3")), nobody);
    let ended = [row("1", "055169101408", TaskStatus::Expired)];
    lines.learn(&LineUse::None, Seen::Tasks(&ended));
    assert_eq!(told(&lines, &call_out("055169101408")).unwrap().1, None);
}

#[test]
fn a_task_that_is_started_is_not_in_its_own_way() {
    let lines = Lines::default();
    assert_eq!(told(&lines, &start("1")), None);
    let rows = [
        row("1", "69101338", TaskStatus::Paused),
        row("2", "69101338", TaskStatus::AwaitingRecall),
    ];
    lines.learn(&LineUse::None, Seen::Tasks(&rows[..1]));
    assert_eq!(told(&lines, &start("1")), Some(("69101338".into(), None)));
    lines.learn(&LineUse::None, Seen::Tasks(&rows));
    let held = Some(held_by("69101338", "2", "awaiting recall"));
    assert_eq!(told(&lines, &start("1")), held);
}

#[test]
fn what_is_remembered_is_bounded_and_names_tell_no_numbers() {
    let lines = Lines::default();
    for id in 0..MOST_TASKS + 10 {
        let rows = [row(&id.to_string(), "69101338", TaskStatus::Running)];
        lines.learn(&LineUse::None, Seen::Tasks(&rows));
    }
    assert_eq!(lines.lock().len(), MOST_TASKS);
    let odd = Task {
        task_name: format!("13000000001 {}", "长".repeat(1000)),
        ..row("odd", "1", TaskStatus::Running)
    };
    let long = row("long", &"1;".repeat(1000), TaskStatus::Running);
    lines.learn(&LineUse::None, Seen::Tasks(&[odd, long]));
    let task = lines.occupation(&call_out("1")).unwrap().task.unwrap();
    assert_eq!(task.task_name.chars().count(), LONGEST_NAME);
    assert!(
        task.task_name.starts_with("*********01 长"),
        "{}",
        task.task_name
    );
    assert!(!lines.lock().contains_key("long"));
}

#[tokio::test(start_paused = true)]
async fn the_platform_is_asked_once_in_a_while() {
    let lines = Lines::default();
    let mut asked = None;
    let question = lines.question(&call_out("1"), &mut asked).unwrap();
    assert_eq!(question.task_status_list, [1, 2, 3, 5, 6]);
    assert_eq!(lines.question(&start("1"), &mut asked), None);
    tokio::time::advance(ASK_EVERY).await;
    let question = lines.question(&start("1"), &mut asked).unwrap();
    assert!(
        question
            .task_status_list()
            .any(|status| status == TaskStatus::New)
    );
    tokio::time::advance(ASK_EVERY).await;
    assert_eq!(lines.question(&LineUse::None, &mut asked), None);
}
