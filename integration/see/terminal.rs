//! What is printed on a terminal: 80 columns, in colours unless somebody minds.

use std::process::Command;

use super::{
    READS,
    fixture::{CTL, Site, everything_long, store},
};

/// Runs the tool on a terminal of 80 columns.
fn on_terminal(site: &Site, args: &[&str], environment: &[(&str, &str)]) -> String {
    let options = site.options().map(|option| option.to_str().unwrap());
    let words: Vec<_> = args.iter().copied().chain(options).collect();
    let line = format!("stty cols 80 rows 24; exec {CTL} {}", words.join(" "));
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    // In CI, every terminal is taken for one that shows colours.
    command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("CI");
    command.envs(environment.iter().copied());
    let output = site.node.host.output(&mut command, b"");
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain += part.split_once('m').map_or(part, |(_, rest)| rest);
    }
    plain
}

/// Names may be as long as they get. What has no blank in it is not broken: the
/// terminal does that.
pub fn everything_fits() {
    let site = Site::with_everything();
    let everything =
        [READS.as_slice(), &[&["show", "7000"], &["show", "arena-1"], &["explain", "7000"]]];
    let fits = |args: &[&str], is_cut: bool| {
        let text = without_colours(&on_terminal(&site, args, &[]));
        let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
        assert!(widest.chars().count() <= 80, "{args:?}: {widest}");
        assert!(!is_cut || text.contains('…'), "{args:?}: {text}");
        assert!(text.lines().count() > 1, "{args:?}: {text}");
    };
    for args in everything.concat() {
        fits(args, false);
    }
    everything_long(&store(&site.node));
    for args in [&["list"][..], &["claims"], &["groups"], &["list", "-o", "wide"]] {
        if args != ["list", "-o", "wide"] {
            fits(args, args != ["groups"]);
        }
        // Whoever reads this is no terminal, and gets all of it.
        let output = site.run(args);
        assert!(!String::from_utf8(output.stdout).unwrap().contains("n…"), "{args:?}");
    }
    let text = on_terminal(&site, &["list"], &[]);
    assert!(text.contains(":19805/sctp"), "the number of a port is shown: {text}");
}

pub fn colours() {
    let site = Site::with_everything();
    let is_coloured = |text: &str| text.contains("\x1b[");
    for args in [["explain", "8080/tcp"], ["explain", "8081/tcp"]] {
        assert!(is_coloured(&on_terminal(&site, &args, &[])));
        for environment in [[("NO_COLOR", "1")], [("TERM", "dumb")]] {
            let text = on_terminal(&site, &args, &environment);
            assert!(!is_coloured(&text) && text.contains("free"), "{text:?}");
        }
        assert!(!is_coloured(&String::from_utf8(site.run(&args).stdout).unwrap()));
    }
}
