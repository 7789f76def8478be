//! Call records of 1 KiB, each unique: 话单推送 as the push document shows it.

/// How long a record is.
const LEN: usize = 1024;

/// Where the number that makes a record unique goes; 20 digits.
const MARK: &str = "00000000000000000000";

const RECORD: &str = r#"{"business_id":"2745","app_id":"test","robot_id":"2745001","call_uuid":"123425c-6483-11e8-00000000000000000000","call_relation_id":"test-123","task_id":"3457986492696704","task_data_id":"346252615123869699","caller":"055196866001","callee":"19900000001","direction":2,"time_dial":1527737756729,"time_ring":1527737757449,"time_answer":1527737763429,"time_hangup":1527737784829,"duration_ring":7,"duration_call":28,"task_result":"0","task_result_desc":"成功","task_tries":0,"task_row_index":34951420,"task_row_head":["客户手机号码","装货时间","装货地三级地址","卸货地三级地址","备注"],"task_row_value":["0271111111","3月13日","河北省张家口市张北县","天津市天津市宁河区","~"]}"#;

/// A request that pushes a record, to be sent again and again with another number in it.
pub struct Request {
    bytes: Vec<u8>,
    number_at: usize,
}

impl Request {
    pub fn new(path: &str) -> Self {
        let remark = "x".repeat(LEN - RECORD.len() + 1);
        let record = RECORD.replace('~', &remark);
        let text = format!(
            "POST {path} HTTP/1.1\r\n\
             Host: gateway\r\n\
             Content-Type: application/json;charset=UTF-8\r\n\
             Content-Length: {}\r\n\
             \r\n\
             {record}",
            record.len()
        );
        let number_at = text.find(MARK).expect("the record holds it");
        Self {
            bytes: text.into_bytes(),
            number_at,
        }
    }

    /// The request with this number in it.
    pub fn numbered(&mut self, number: u64) -> &[u8] {
        let digits = format!("{number:020}");
        self.bytes[self.number_at..][..MARK.len()].copy_from_slice(digits.as_bytes());
        &self.bytes
    }
}
