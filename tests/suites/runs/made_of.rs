//! What an agent is made of: its model, prompts, tools and skills, measured as it is launched and told by its record.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use tonic::Code;
use vouchsafe_launch::Digest;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::stage::Stage;

const PARTS: [(&str, &str); 4] = [
    ("prompt", "Be kind.\n"),
    ("tools", "{\"tools\": []}\n"),
    ("skill", "# Counting\n"),
    ("model", "weights"),
];

/// A class with one file of each kind, whose runs are told their model.
async fn stage() -> Stage {
    let stage = Stage::empty().await.unwrap();
    let mut spec = stage.spec().unwrap();
    spec.push_str("\n[model]\nargument = \"--model\"\nallowed = [\"small-*\", \"tiny\"]\n");
    for (role, text) in PARTS {
        let path = stage.at.path(role);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let hash = Digest::of(text.as_bytes());
        spec.push_str(&format!(
            "\n[[files]]\npath = {path:?}\nsha256 = \"{hash}\"\nrole = \"{role}\"\n"
        ));
    }
    let id = "spiffe://example.org/agent/researcher";
    stage.class("researcher", id, &spec).await.unwrap();
    stage
}

fn texts(value: &Value) -> Vec<&str> {
    let values = value.as_array().unwrap().iter();
    values.map(|value| value.as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_run_whose_model_is_not_said_or_not_allowed_does_not_start() {
    require!(Need::Root, Need::Python);
    let stage = stage().await;
    let refusals: [(&[&str], &str); 5] = [
        (&["exit", "0"], "`--model NAME`"),
        // Where another argument could have it for its value it does not count.
        (&["--note", "--model=tiny"], "`--model NAME`"),
        (
            &["--model", "large-1", "exit", "0"],
            "does not allow the model `large-1`",
        ),
        (&["--model", "tiny", "exit", "0", "--model=large-1"], "once more"),
        // Python's own parser of arguments takes it for `--model`.
        (&["--model", "tiny", "exit", "0", "--mod", "large-1"], "once more"),
    ];
    for (arguments, reason) in refusals {
        let refused = stage.launch(stage.request(arguments)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(reason), "{}", refused.message());
    }
    let runs = stage.at.json(&["run", "list"]).await.unwrap();
    assert_eq!(runs, serde_json::json!([]), "nothing was admitted");
}

#[tokio::test]
async fn what_an_agent_is_made_of_is_on_its_record_and_in_explain() {
    require!(Need::Root, Need::Python);
    let stage = stage().await;
    // What a process says of itself counts for nothing.
    let mut request = stage.request(&["--model", "small-1", "stay"]);
    request.environment.push(b"MODEL=large-1".to_vec());
    let run = stage.launch(request).await.unwrap();

    let shown = stage
        .at
        .json(&["run", "show", &run.admitted.run_id])
        .await
        .unwrap();
    let selectors = texts(&shown["selectors"]);
    let mut expected = vec!["ai:model:small-1".to_owned()];
    for (role, text) in PARTS {
        expected.push(format!("ai:{role}_sha256:{}", Digest::of(text.as_bytes())));
    }
    let script = fs::read(&stage.script).unwrap();
    expected.push(format!("process:script:{}", stage.script.display()));
    expected.push(format!("process:script_sha256:{}", Digest::of(&script)));
    // This very test launched it.
    let own = std::env::current_exe().unwrap();
    expected.push(format!("process:ancestor:{}", own.display()));
    for selector in &expected {
        assert!(
            selectors.contains(&selector.as_str()),
            "{selector}: {selectors:#?}"
        );
    }
    let above: Vec<&&str> = selectors
        .iter()
        .filter(|text| text.contains(":ancestor:"))
        .collect();
    assert!(above.len() > 1, "who started the test is told too: {above:?}");
    assert_eq!(*above[0], format!("process:ancestor:{}", own.display()));

    // What the server has is what the agent has.
    let pid = run.started.pid.to_string();
    let explained = stage.at.json(&["explain", &pid]).await.unwrap();
    assert_eq!(texts(&explained["run"]["selectors"]), selectors);
}

#[tokio::test]
async fn a_prompt_that_has_changed_holds_the_run() {
    require!(Need::Root, Need::Python);
    let stage = stage().await;
    for (role, text) in PARTS {
        let path = stage.at.path(role);
        fs::write(&path, "another").unwrap();
        let refused = stage
            .launch(stage.request(&["--model=tiny", "exit", "0"]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains(role), "{}", refused.message());
        fs::write(&path, text).unwrap();
    }
    let mut run = stage
        .launch(stage.request(&["--model=tiny", "exit", "0"]))
        .await
        .unwrap();
    run.ended().await.unwrap();
}

#[tokio::test]
async fn flags_say_which_models_a_class_allows_and_take_it_back() {
    require!(Need::Root, Need::Python);
    let stage = Stage::start().await.unwrap();
    let alone = stage
        .at
        .vouchsafe(&["class", "update", "researcher", "--allow-model", "tiny"])
        .await
        .unwrap();
    assert_eq!(alone.status.code(), Some(64), "{alone:?}");
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(said.contains("--model-argument"), "{said}");
    for (argument, what) in [
        ("model", "no argument"),
        ("--model=x", "no argument"),
        ("--", "no argument"),
    ] {
        let flag = format!("--model-argument={argument}");
        let refused = stage
            .at
            .vouchsafe(&["class", "update", "researcher", &flag])
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(what), "{argument}: {said}");
    }
    let class = stage
        .at
        .json(&[
            "class",
            "update",
            "researcher",
            "--model-argument=--model",
            "--allow-model",
            "tiny",
            "--allow-model",
            "small-*",
        ])
        .await
        .unwrap();
    let model = &class["spec"]["model"];
    assert_eq!(model["argument"], "--model");
    assert_eq!(texts(&model["allowed"]), ["tiny", "small-*"]);
    let cleared = stage
        .at
        .json(&["class", "update", "researcher", "--model-argument="])
        .await
        .unwrap();
    assert_eq!(cleared["spec"]["model"], Value::Null, "{cleared}");
}
