//! Tokens, the configuration, tasks, and every refusal.

use serde_json::{Value, json};
use yeta_gateway::sandbox::SandboxConfig;

use super::harness::{Sandbox, callout};

#[tokio::test]
async fn the_documents_examples_work_as_printed() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let config = session.result("config", json!({ "type": 0 })).await;
    assert_eq!(config["lines"][0]["line_num"], "055169101407");
    assert_eq!(
        config["robots"][0]["call_column"],
        json!(["客户手机号码", "姓名", "性别"])
    );
    assert_eq!(
        config["voices"][0],
        json!({ "voice_code": "60020", "voice_name": "春春" })
    );
    assert_eq!(config["urls"][0]["url_module"], "receiveCallRecord");

    let result = session
        .result("callout", callout(&["13000000001", "13000000002"]))
        .await;
    assert_eq!(result["total"], 2);
    assert_eq!(
        result["task_data_ids"],
        json!([346_252_615_123_869_699_i64, 346_252_615_123_869_700_i64])
    );

    let task = session.task(json!({})).await;
    assert_eq!(task, "129");
    assert_eq!(
        session.insert("129", &["13000000001", "13000000002"]).await["result"]["total"],
        2
    );
    session.result("start", json!({ "task_id": "129" })).await;
    session.result("pause", json!({ "task_id": "129" })).await;
    session.result("delete", json!({ "task_id": "129" })).await;
    let found = session
        .result("query", json!({ "time_begin": 153_000_000 }))
        .await;
    assert_eq!(
        found["total_rows"], 2,
        "the task and the one of direct callouts"
    );
}

#[tokio::test]
async fn a_part_of_the_configuration_can_be_asked_for() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let parts = async |kind: i64| {
        let result = session.result("config", json!({ "type": kind })).await;
        result
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(parts(1).await, ["robotTotal", "robots"]);
    assert_eq!(parts(2).await, ["lines"]);
    assert_eq!(parts(3).await, ["urls"]);
    assert_eq!(parts(4).await, ["voices"]);
    let page = session
        .result(
            "config",
            json!({ "type": 1, "pageSize": 2, "pageIndex": 2 }),
        )
        .await;
    assert_eq!(page["robots"].as_array().unwrap().len(), 1);
    assert_eq!(page["robotTotal"], 3);
    assert_eq!(session.code("config", json!({ "type": 5 })).await, 10005);
}

#[tokio::test]
async fn a_new_token_ends_the_older_one() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let old = sandbox.session().await;
    let new = sandbox.session().await;
    assert_eq!(old.code("config", json!({})).await, 10001);
    assert_eq!(new.code("config", json!({})).await, 0);
    sandbox.admin("tokens/expire", json!({})).await;
    assert_eq!(new.code("config", json!({})).await, 10001);
    let tokens = sandbox.get("/sandbox/tokens").await;
    assert_eq!(tokens, json!({ "issued": 2, "live": 0, "refused": 2 }));
}

#[tokio::test]
async fn old_tokens_can_be_kept_and_credentials_demanded() {
    let config = SandboxConfig {
        kill_old_tokens: false,
        credentials: Some(("key".into(), "secret".into())),
        ..Default::default()
    };
    let sandbox = Sandbox::start(config).await;
    let old = sandbox.session().await;
    let _new = sandbox.session().await;
    assert_eq!(old.code("config", json!({})).await, 0);
    let refused = sandbox.token_answer("key", "wrong").await;
    assert_eq!(refused["code"], 200_101);
    assert_eq!(refused["message"], "账号或密码错误");
}

#[tokio::test]
async fn a_token_ends_with_its_life() {
    let config = SandboxConfig {
        token_life: std::time::Duration::ZERO,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await;
    let session = sandbox.session().await;
    assert_eq!(session.code("config", json!({})).await, 10001);
}

#[tokio::test]
async fn a_bad_callout_is_refused_with_its_code() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let cases: [(&str, Value, i64); 14] = [
        ("robot_id", json!("9"), 200_204),
        ("robot_id", Value::Null, 10005),
        ("robot_id", json!(719), 10005),
        ("line_num", json!("12345678"), 200_200),
        ("voice_code", json!("1"), 200_205),
        ("robot_speed", json!(501), 200_206),
        ("call_column", json!(["客户手机号码"]), 200_212),
        ("call_column", json!(["姓名", "客户手机号码"]), 200_212),
        ("call_column", json!("客户手机号码"), 10005),
        ("call_list", json!([["13000000001"]]), 200_212),
        (
            "call_list",
            json!([["13000000001", "a"], ["0271111111", "b"]]),
            200_203,
        ),
        ("call_list", json!(vec![["13000000001", "a"]; 51]), 200_213),
        ("call_list", json!([]), 10005),
        ("call_list", json!([["13000000001", 1]]), 10005),
    ];
    for (field, value, code) in cases {
        let mut body = callout(&["13000000001"]);
        body[field] = value.clone();
        assert_eq!(
            session.code("callout", body).await,
            code,
            "{field} = {value}"
        );
    }
    let requests = sandbox.get("/sandbox/requests").await;
    assert_eq!(requests["rows"]["accepted"], 0);
    assert_eq!(requests["operations"]["callout"]["refused"], 14);
}

#[tokio::test]
async fn what_is_no_json_is_a_bad_parameter() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    for body in ["", "[]", "{", "null"] {
        let reply = sandbox
            .post_raw(&session.path("config"), body)
            .await
            .unwrap();
        assert_eq!(reply.json()["code"], 10005, "{body}");
    }
}

#[tokio::test]
async fn a_callout_beyond_the_balance_is_refused() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    sandbox.admin("balance", json!({ "calls": 1 })).await;
    let two = callout(&["13000000001", "13000000002"]);
    assert_eq!(session.code("callout", two).await, 200_209);
    assert_eq!(session.code("callout", callout(&["13000000001"])).await, 0);
    assert_eq!(
        session.code("callout", callout(&["13000000001"])).await,
        200_209
    );
    sandbox.admin("balance", json!({ "calls": null })).await;
    assert_eq!(session.code("callout", callout(&["13000000001"])).await, 0);
}

#[tokio::test]
async fn a_bad_task_is_refused_with_its_code() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let good = json!({ "task_name": "a", "line_num": "055169101407;69101408", "robot_id": "11",
        "time_begin": 1 });
    assert_eq!(session.code("create", good.clone()).await, 0);
    let cases = [
        ("task_name", Value::Null, 10005),
        ("line_num", json!("055169101407;1"), 200_200),
        ("robot_id", json!("12"), 200_204),
        ("voice_code", json!("12"), 200_205),
        ("recall_count", json!(4), 10005),
        ("time_recall_wait", json!(-1), 10005),
        ("time_range", json!(["9-12"]), 10005),
        ("time_begin", Value::Null, 10005),
        ("time_end", json!(0), 10005),
    ];
    for (field, value, code) in cases {
        let mut body = good.clone();
        body[field] = value.clone();
        assert_eq!(
            session.code("create", body).await,
            code,
            "{field} = {value}"
        );
    }
}

#[tokio::test]
async fn an_unknown_task_is_refused_everywhere() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    for operation in ["start", "pause", "delete", "query"] {
        assert_eq!(
            session.code(operation, json!({ "task_id": "1" })).await,
            200_202
        );
    }
    assert_eq!(session.insert("1", &["13000000001"]).await["code"], 200_202);
}

#[tokio::test]
async fn a_task_takes_rows_only_before_its_start() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let task = session.task(json!({})).await;
    assert_eq!(session.status(&task).await, 0);
    assert_eq!(
        session.code("pause", json!({ "task_id": task })).await,
        200_200
    );
    assert_eq!(session.insert(&task, &["13000000001"]).await["code"], 0);
    session.result("start", json!({ "task_id": task })).await;
    assert_eq!(
        session.insert(&task, &["13000000001"]).await["code"],
        200_200
    );
    session.wait_for_status(&task, 2).await;
    session.result("pause", json!({ "task_id": task })).await;
    assert_eq!(session.status(&task).await, 3);
    assert_eq!(
        session.insert(&task, &["13000000001"]).await["code"],
        200_200
    );
    session.result("start", json!({ "task_id": task })).await;
    session.result("delete", json!({ "task_id": task })).await;
    for operation in ["start", "pause", "delete"] {
        assert_eq!(
            session.code(operation, json!({ "task_id": task })).await,
            3_010_102
        );
    }
    assert_eq!(
        session.insert(&task, &["13000000001"]).await["code"],
        3_010_102
    );
}

#[tokio::test]
async fn a_finished_task_can_only_be_deleted() {
    let config = SandboxConfig {
        speed: 1000.0,
        ..Default::default()
    };
    let sandbox = Sandbox::start(config).await;
    let session = sandbox.session().await;
    let task = session.task(json!({})).await;
    session.insert(&task, &["13000000001", "19900000001"]).await;
    session.result("start", json!({ "task_id": task })).await;
    session.wait_for_status(&task, 4).await;
    for operation in ["start", "pause"] {
        assert_eq!(
            session.code(operation, json!({ "task_id": task })).await,
            3_010_101
        );
    }
    assert_eq!(
        session.insert(&task, &["13000000001"]).await["code"],
        3_010_101
    );
    session.result("delete", json!({ "task_id": task })).await;
    assert_eq!(
        session.code("start", json!({ "task_id": task })).await,
        3_010_102
    );
}

#[tokio::test]
async fn a_line_serves_one_task_at_a_time() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let first = session.task(json!({ "line_num": "69101338" })).await;
    let second = session
        .task(json!({ "line_num": "055169101338,69101408" }))
        .await;
    for task in [&first, &second] {
        session.insert(task, &["13000000001"]).await;
    }
    session.result("start", json!({ "task_id": first })).await;
    assert_eq!(
        session.code("start", json!({ "task_id": second })).await,
        3_030_002
    );
    assert_eq!(
        session.code("callout", callout(&["13000000001"])).await,
        3_030_002
    );
    let lines = session.result("config", json!({ "type": 2 })).await["lines"].clone();
    assert_eq!(lines[2]["status"], 1);
    assert_eq!(lines[1]["status"], 0);
    session.result("delete", json!({ "task_id": first })).await;
    session.result("start", json!({ "task_id": second })).await;
}

#[tokio::test]
async fn a_line_with_direct_calls_under_way_serves_no_task() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let task = session.task(json!({ "line_num": "69101338" })).await;
    session.insert(&task, &["13000000001"]).await;
    session.result("callout", callout(&["13000000001"])).await;
    session.result("callout", callout(&["13000000002"])).await;
    assert_eq!(
        session.code("start", json!({ "task_id": task })).await,
        3_030_002
    );
}

#[tokio::test]
async fn the_long_lived_task_cannot_be_controlled() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    session.result("callout", callout(&["13000000001"])).await;
    let found = session.result("query", json!({})).await;
    let task = found["rows"][0]["task_id"].clone();
    assert_eq!(found["rows"][0]["task_type"], 2);
    for operation in ["start", "pause", "delete"] {
        assert_eq!(
            session.code(operation, json!({ "task_id": task })).await,
            200_200
        );
    }
}

#[tokio::test]
async fn tasks_are_filtered_sorted_and_paged() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    for name in ["b外呼", "a外呼", "c回访"] {
        session.task(json!({ "task_name": name })).await;
    }
    let names = async |query: Value| {
        let rows = session.result("query", query).await["rows"].clone();
        let name = |row: &Value| row["task_name"].as_str().unwrap().to_owned();
        rows.as_array()
            .unwrap()
            .iter()
            .map(name)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(json!({ "task_name": "外呼" })).await,
        ["b外呼", "a外呼"]
    );
    assert_eq!(
        names(json!({ "sort_name": "NAME", "sort_order": "DESC" })).await,
        ["c回访", "b外呼", "a外呼"]
    );
    assert_eq!(
        names(json!({ "page_size": 2, "page_index": 2 })).await,
        ["c回访"]
    );
    assert!(names(json!({ "task_status_list": [4] })).await.is_empty());
    assert!(names(json!({ "time_end": 153_000_000 })).await.is_empty());
    assert_eq!(
        session.code("query", json!({ "page_size": 51 })).await,
        10005
    );
    assert_eq!(
        session.code("query", json!({ "sort_name": "SIZE" })).await,
        10005
    );
    let rows = session
        .result("query", json!({ "show_remaining": true }))
        .await["rows"]
        .clone();
    assert!(
        rows[0]["time_range"].is_string(),
        "odd ids show the list as a string"
    );
    assert!(
        rows[1]["time_range"].is_array(),
        "even ids show it as an array"
    );
    assert_eq!(rows[0]["remaining"], 0);
}

#[tokio::test]
async fn rows_are_counted_as_they_come_and_as_they_are_accepted() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let result = session.result("callout", callout(&["13000000001"])).await;
    // Refused for the sake of a row, for the token, and by a fault.
    let both = ["13000000001", "13000009999"];
    assert_eq!(session.code("callout", callout(&both)).await, 200_203);
    sandbox
        .fault(json!({ "operation": "callout", "fault": "busy" }))
        .await;
    assert_eq!(
        session.code("callout", callout(&["13000000001"])).await,
        10_004
    );
    sandbox
        .fault(json!({ "operation": "callout", "fault": "cut_before_reading" }))
        .await;
    let cut = session.raw("callout", &callout(&["13000000001"])).await;
    assert!(cut.is_err());

    let (first, second) = (
        json!(["13000000001", "张先生"]).to_string(),
        json!(["13000009999", "张先生"]).to_string(),
    );
    let rows = sandbox.get("/sandbox/requests").await["rows"].clone();
    assert_eq!(
        rows["received_by_content"],
        json!({ &first: 3, &second: 1 })
    );
    assert_eq!(rows["by_content"], json!({ &first: 1 }));
    let id = result["task_data_ids"][0].as_i64().unwrap().to_string();
    assert_eq!(rows["ids_by_content"], json!({ &first: [id] }));
    let totals = sandbox.get("/sandbox/rows").await;
    assert_eq!(
        totals,
        json!({ "received": 4, "accepted": 1, "accepted_again": 0 })
    );
    session.result("callout", callout(&["13000000001"])).await;
    assert_eq!(sandbox.get("/sandbox/rows").await["accepted_again"], 1);
}

#[tokio::test]
async fn a_control_character_in_a_value_fails_its_batch() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await;
    let session = sandbox.session().await;
    let with = |value: String| {
        let mut request = callout(&["13000000001", "13000000002"]);
        request["call_list"][1][1] = json!(value);
        request
    };
    let code = session.code("callout", with("a\u{7}b".into())).await;
    assert_eq!(code, 10_005);
    assert_eq!(session.code("callout", with("长".repeat(5000))).await, 0);
}

#[tokio::test]
async fn rows_that_are_not_dialled_are_accepted_and_forgotten() {
    let config = SandboxConfig {
        dial: false,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await;
    let session = sandbox.session().await;
    let result = session.result("callout", callout(&["13000000001"])).await;
    assert_eq!(result["total"], 1);
    let task = session.task(json!({ "line_num": "69101338" })).await;
    let inserted = session.insert(&task, &["13000000001"]).await;
    assert_eq!(inserted["result"]["total"], 1);
    // The line is free, and the task has nobody to call.
    session.result("start", json!({ "task_id": task })).await;
    session.wait_for_status(&task, 4).await;
    assert_eq!(sandbox.get("/sandbox/rows").await["accepted"], 2);
}
