//! Numbers go out in their plain national form, and a number that has none is refused here.

use yeta_gateway::proto::upload_row_result::Outcome;

use super::stage::{Stage, silent};
use super::upload::{Row, Told, direct, not, outcome, row, submit};

const PLAIN: &str = "13800138000";

async fn upload(stage: &Stage, number: &str) -> Told {
    submit(&stage.outbound(), direct(""), &[row("k1", &[number, "n"])]).await
}

fn warnings(told: &Told) -> Vec<&str> {
    let warnings = told.results[0].warnings.iter();
    warnings.map(|warning| warning.reason.as_str()).collect()
}

#[tokio::test]
async fn a_decorated_number_goes_out_in_its_plain_national_form_with_a_warning() {
    let stage = Stage::set(silent(), "").await;
    let decorated = [
        "+86 138-0013 8000",
        "+8613800138000",
        "008613800138000",
        "138 0013 8000",
        " 13800138000",
        "13800138000\u{a0}",
        "(138) 0013-8000",
        "１３８００１３８０００",
        "\u{202d}13800138000\u{202c}",
        "138\u{200b}0013\u{200b}8000",
        "\u{feff}13800138000",
    ];
    for (before, number) in (0..).zip(decorated) {
        let told = upload(&stage, number).await;
        assert!(
            matches!(outcome(&told.results[0]), Row::Taken(_)),
            "{number:?}: {told:?}"
        );
        assert_eq!(warnings(&told), ["NUMBER_REWRITTEN"], "{number:?}");
        let message = &told.results[0].warnings[0].message;
        assert!(
            !message.contains(PLAIN) && !message.contains(number),
            "{message}"
        );
        assert_eq!(
            stage.row(&[PLAIN, "n"]).await,
            (before + 1, before + 1),
            "{number:?}"
        );
    }
}

#[tokio::test]
async fn a_plain_number_goes_out_as_it_is_without_a_warning() {
    let stage = Stage::set(silent(), "").await;
    let told = upload(&stage, PLAIN).await;
    assert!(matches!(outcome(&told.results[0]), Row::Taken(_)));
    assert_eq!(warnings(&told), [""; 0]);
    assert_eq!(stage.row(&[PLAIN, "n"]).await, (1, 1));
}

#[tokio::test]
async fn a_foreign_number_or_one_with_letters_is_refused_by_what_is_wrong_with_it() {
    let stage = Stage::set(silent(), "").await;
    for (number, named) in [
        ("+1 650 253 0000", "+1"),
        ("+44 20 7031 3000", "+44"),
        ("1380013800O", "O"),
        ("138x0013y8000", "x"),
    ] {
        let told = upload(&stage, number).await;
        let result = &told.results[0];
        assert_eq!(
            outcome(result),
            not("IMPLAUSIBLE_PHONE_NUMBER", ""),
            "{number}"
        );
        let Some(Outcome::Error(error)) = &result.outcome else {
            panic!("{result:?}");
        };
        assert!(error.message.contains(named), "{number}: {}", error.message);
        let digits = |text: &str| -> String { text.chars().filter(char::is_ascii_digit).collect() };
        let (told, all) = (digits(&error.message), digits(number));
        assert!(
            !told.contains(&all) && !told.contains(&all[2..]),
            "{}",
            error.message
        );
    }
    assert_eq!(stage.sandbox.get("/sandbox/rows").await["received"], 0);
}

#[tokio::test]
async fn two_ways_to_write_one_number_are_one_number() {
    let stage = Stage::set(silent(), "").await;
    let rows = [
        row("k1", &["+86 138-0013 8000", "n"]),
        row("k2", &["１３８００１３８０００", "n"]),
    ];
    let told = submit(&stage.outbound(), direct("u"), &rows).await;
    let by_key = told.by_key();
    assert!(matches!(outcome(by_key["k1"]), Row::Taken(_)));
    assert_eq!(outcome(by_key["k2"]), not("DUPLICATE_NUMBER", ""));
    // The very same row, written as before, is answered from the store.
    let again = submit(&stage.outbound(), direct("u"), &rows[..1]).await;
    assert!(again.results[0].known_before);
    assert_eq!(stage.row(&[PLAIN, "n"]).await, (1, 1));
}
