//! Tests against the kernel, each in a network namespace of its own.
//!
//! The test runs its own binary again under `unshare --net` (namespaces belong
//! to threads, and entering one needs unsafe code or a helper), so the machine's
//! namespace stays untouched. They need root, `unshare`, `ip` and `nft`, and
//! fail where those are missing.

use std::{any::type_name_of_val, process::Command};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "PORTCLAIM_TEST_NAMESPACE";

/// Runs the body of a test in a fresh network namespace. The test calls this
/// with a closure and does nothing else; its name is taken from the closure's.
pub(crate) fn private<F: FnOnce()>(body: F) {
    let closure = type_name_of_val(&body);
    let test = closure
        .split_once("::")
        .and_then(|(_, path)| path.strip_suffix("::{{closure}}"))
        .expect("the body is a closure of the test");
    if std::env::var_os(INSIDE).is_some() {
        run("ip link set lo up");
        return body();
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    print!("{printed}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed in its namespace ({})", output.status);
    assert!(
        printed.contains("; 0 failed; 0 ignored;") && printed.contains(" 1 passed"),
        "{test} was not run in its namespace"
    );
}

/// Runs a command, its words between blanks, and returns what it printed.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_ascii_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
