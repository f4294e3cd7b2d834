//! What keeps an agent from starting is said in words, at once.

use std::process::{Command, Output};

use crate::support::Node;

fn words(output: &Output) -> String {
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr.clone()).expect("messages are UTF-8");
    text.lines()
        .filter(|line| line.starts_with("causeway-agent:"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_a_state_directory_is_refused() {
    let node = Node::start().await;
    let output = node.command().output().unwrap();
    let want = format!("another agent uses the state directory {}", node.state_dir().display());
    assert!(words(&output).contains(&want), "{}", words(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_its_option() {
    let node = Node::start().await;
    let other = tempfile::Builder::new().prefix("causeway-test-").tempdir().unwrap();
    let output = node
        .command_with(Some(["--state-dir", other.path().to_str().unwrap()]))
        .output()
        .unwrap();
    assert!(
        words(&output).contains("cannot listen on 0.0.0.0:6560 (--listen)"),
        "{}",
        words(&output)
    );
}

#[test]
fn check_tells_what_the_machine_offers() {
    let output = Command::new(env!("CARGO_BIN_EXE_causeway-agent"))
        .arg("check")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for thing in ["rights", "bpf(2)", "BTF", "cgroup v2", "namespaces", "overlayfs"] {
        assert!(
            text.lines()
                .any(|line| line.starts_with(thing) && line.contains(" ok ")),
            "{thing} in {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_are_refused() {
    let node = Node::new();
    for (arguments, want) in [
        (["--uplink", "cw-none"], "there is no link cw-none"),
        (
            ["--control", "ftp://here"],
            "control plane address \"ftp://here\" must begin with http:// or unix:///",
        ),
        (["--log", "loud=very"], "--log loud=very is not a level"),
    ] {
        let output = node.command_with(Some(arguments)).output().unwrap();
        assert!(words(&output).contains(want), "{}", words(&output));
    }
}
