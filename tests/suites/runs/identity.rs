//! Who of a run gets which identity.

use base64::Engine;
use tonic::Code;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::stage::{CLASS, Stage};

/// The story that this is all about: the agent has an identity of its own, and what its model starts has none and gets
/// none.
#[tokio::test]
async fn the_main_process_alone_has_the_runs_identity_and_its_key_stays_its_own() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    let (run, told) = stage.told(&[]).await.unwrap();
    let id = format!("{CLASS}/run/{}", run.admitted.run_id);
    assert_eq!(run.admitted.spiffe_id, id);
    let who: Vec<_> = told.iter().map(|(who, _)| who.as_str()).collect();
    assert_eq!(
        who,
        [
            "main", "child", "shell", "session", "nohup", "daemon", "thief", "again"
        ]
    );
    for (who, got) in &told {
        match who.as_str() {
            "main" | "again" => assert_eq!(got, &serde_json::json!([id]), "{who}"),
            "thief" => assert_eq!(got, "shut out"),
            _ => {
                let text = got.as_str().unwrap_or_else(|| panic!("{who} got {got}"));
                assert!(
                    text.contains("lets only the run's main process have an identity"),
                    "{who}: {text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn without_isolation_the_thief_finds_the_key() {
    require!(Need::Root);
    let open = |spec: &mut String| *spec = spec.replace("isolation = \"process\"", "isolation = \"none\"");
    let stage = Stage::with(open).await.unwrap();
    let (run, told) = stage.told(&[]).await.unwrap();
    let thief = told.iter().find(|(who, _)| who == "thief").unwrap();
    assert_eq!(thief.1, "key");
    assert!(
        run.started.weaker.iter().any(|text| text.contains("memory")),
        "{:?}",
        run.started
    );
}

#[tokio::test]
async fn two_runs_at_once_have_two_identities_and_two_users() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    let (one, other) = tokio::join!(stage.told(&["ask", "main"]), stage.told(&["ask", "main"]));
    let ((one, one_told), (other, other_told)) = (one.unwrap(), other.unwrap());
    assert_ne!(one.started.uid, other.started.uid);
    assert_ne!(one_told, other_told);
    assert_eq!(one_told[0].1, serde_json::json!([one.admitted.spiffe_id]));
    assert_eq!(other_told[0].1, serde_json::json!([other.admitted.spiffe_id]));
}

#[tokio::test]
async fn children_inherit_where_the_class_says_so() {
    require!(Need::Root);
    let all = |spec: &mut String| *spec = spec.replace("inherit = \"none\"", "inherit = \"children\"");
    let stage = Stage::with(all).await.unwrap();
    let (run, told) = stage.told(&[]).await.unwrap();
    for (who, got) in told.iter().filter(|(who, _)| who != "thief") {
        assert_eq!(got, &serde_json::json!([run.admitted.spiffe_id]), "{who}");
    }
}

#[tokio::test]
async fn children_have_ids_of_their_own_where_the_class_says_so() {
    require!(Need::Root);
    let derived = |spec: &mut String| *spec = spec.replace("inherit = \"none\"", "inherit = \"derived\"");
    let stage = Stage::with(derived).await.unwrap();
    let (run, told) = stage.told(&[]).await.unwrap();
    let id = &run.admitted.spiffe_id;
    let children = told
        .iter()
        .filter(|(who, _)| !["main", "again", "thief"].contains(&who.as_str()));
    for (n, (who, got)) in (1..).zip(children) {
        assert_eq!(got, &serde_json::json!([format!("{id}/child/{n}")]), "{who}");
    }
    assert_eq!(told.last().unwrap().1, serde_json::json!([id]));
}

/// What a token says, whoever signed it.
fn claims_of(token: &str) -> serde_json::Value {
    let payload = token.split('.').nth(1).unwrap();
    let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_token_of_a_run_says_what_its_audience_is_to_know() {
    require!(Need::Root);
    let lists = |spec: &mut String| {
        *spec = format!("claims_audiences = [\"tools\"]\nclass_sub_audiences = [\"database\"]\n{spec}");
    };
    let stage = Stage::with(lists).await.unwrap();
    for (audience, sub, claims) in [
        ("other", "run", false),
        ("tools", "run", true),
        ("database", "class", false),
    ] {
        let (run, told) = stage.told(&["jwt", audience]).await.unwrap();
        let token = told[0].1.as_str().unwrap();
        let claimed = claims_of(token);
        let expected = match sub {
            "class" => CLASS.to_owned(),
            _ => run.admitted.spiffe_id.clone(),
        };
        assert_eq!(claimed["sub"], expected.as_str(), "{audience}");
        assert_eq!(claimed.get("task").is_some(), claims, "{audience}");
    }
}

#[tokio::test]
async fn who_may_not_launch_and_what_is_not_the_class_is_refused() {
    require!(Need::Root);
    let nobody =
        |spec: &mut String| *spec = spec.replace("launchers = [\"uid:0\"]", "launchers = [\"uid:12345\"]");
    let stage = Stage::with(nobody).await.unwrap();
    let refused = stage.launch(stage.request(&[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(
        refused.message().contains("may not launch class `researcher`"),
        "{refused:?}"
    );
    assert!(!refused.details().is_empty(), "programs read the reason");
    let mut other = stage.request(&[]);
    other.class = "unknown".to_owned();
    let refused = stage.launch(other).await.unwrap_err();
    assert!(
        refused.message().contains("`unknown` is not known"),
        "{refused:?}"
    );
    let mut other = stage.request(&[]);
    other.arguments = vec![b"/bin/sh".to_vec(), b"-c".to_vec(), b"id".to_vec()];
    let unnamed = stage.launch(other.clone()).await.unwrap_err();
    assert_eq!(
        unnamed.code(),
        Code::PermissionDenied,
        "who may not launch learns nothing of the class"
    );

    let own = stage.spec().unwrap();
    stage
        .class("own", "spiffe://example.org/agent/own", &own)
        .await
        .unwrap();
    other.class = "own".to_owned();
    let refused = stage.launch(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(
        refused.message().contains("is not the program of the class"),
        "{refused:?}"
    );
}
