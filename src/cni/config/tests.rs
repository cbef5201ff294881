//! Configurations that are taken, and those that are refused.

use super::*;

fn parse(keys: &str) -> Config {
    let json = format!(r#"{{"cniVersion":"1.0.0","name":"net","type":"portclaim"{keys}}}"#);
    Config::parse(json.as_bytes()).unwrap()
}

fn error(keys: &str) -> String {
    parse(keys).settings().unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = parse("");
    let settings = config.settings().unwrap();
    let group = &settings.groups["default"];
    assert_eq!((group.ports.to_string().as_str(), group.cooldown.as_secs()), ("10000-19999", 60));
    assert_eq!((settings.snat, settings.masq_all), (true, false));
    assert_eq!(settings.exclude, None);
    assert_eq!(settings.host_listeners, HostListeners::Refuse);
    assert_eq!(settings.lock_timeout, Duration::from_secs(10));
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/portclaim"));
    assert_eq!(config.run_dir, PathBuf::from("/run/portclaim"));
    assert_eq!(config.logging().unwrap(), Logging { level: LevelFilter::Warn, file: None });
}

#[test]
fn null_is_like_absent() {
    let nothing = parse(
        r#","groups":null,"exclude":null,"snat":null,"runtimeConfig":null,"prevResult":null,
        "conditionsV4":null,"markMasqBit":null,"logFile":null,"lockTimeout":null"#,
    );
    assert_eq!(nothing.settings().unwrap(), parse("").settings().unwrap());
    assert_eq!(nothing.runtime_config("portMappings").unwrap(), None);
    let config = parse(r#","runtimeConfig":{"portMappings":null}"#);
    assert_eq!(config.runtime_config("portMappings").unwrap(), None);
}

#[test]
fn wrong_values_are_refused_with_key_value_and_what_is_allowed() {
    for (keys, message) in [
        (r#","snat":"yes""#, "snat is \"yes\": true or false is allowed"),
        (r#","exclude":80"#, "exclude is 80: a text like \"7000-7999,8443\" is allowed"),
        (r#","exclude":"80-""#, "exclude is \"80-\": \"\" is not a port from 1 to 65535"),
        (
            r#","groups":{"default":{"ports":"0-9"}}"#,
            "groups.default.ports is \"0-9\": \"0\" is not a port from 1 to 65535",
        ),
        (
            r#","groups":{"default":{"ports":""}}"#,
            "groups.default.ports is \"\": at least one port is needed",
        ),
        (
            r#","groups":{"games":{}}"#,
            "groups.games.ports is null: a text like \"7000-7999,8443\" is allowed",
        ),
        (
            r#","groups":{"default":{"strategy":"random"}}"#,
            "groups.default.strategy is \"random\": only ports and cooldown are allowed",
        ),
        (
            r#","groups":{"default":{"cooldown":60}}"#,
            "groups.default.cooldown is 60: a time like \"500ms\", \"10s\" or \"2m\" up to 1day is allowed",
        ),
        (
            r#","groups":{"a b":{"ports":"1"}}"#,
            "a name in groups is \"a b\": 1 to 63 letters, digits, '-' and '_' are allowed",
        ),
        (r#","defaultGroup":"games""#, "defaultGroup is \"games\": a name of groups is allowed"),
        (
            r#","hostListeners":"allow""#,
            "hostListeners is \"allow\": \"refuse\" or \"shadow\" is allowed",
        ),
        (
            r#","lockTimeout":"11m""#,
            "lockTimeout is \"11m\": a time like \"500ms\", \"10s\" or \"2m\" up to 10m is allowed",
        ),
        (
            r#","conditionsV4":"-d x""#,
            "conditionsV4 is \"-d x\": an array of at most 64 texts is allowed",
        ),
        (
            r#","backend":"iptables""#,
            "backend is \"iptables\": it has no meaning on nftables, remove it or write \"nftables\"",
        ),
        (
            r#","markMasqBit":13"#,
            "markMasqBit is 13: it has no meaning on nftables, remove it: traffic is masqueraded without a mark",
        ),
    ] {
        assert_eq!(error(keys), message);
    }
    let level = parse(r#","logLevel":"loud""#).logging().unwrap_err().to_string();
    assert_eq!(level, "logLevel is \"loud\": off, error, warn, info, debug or trace is allowed");
}

#[test]
fn what_is_no_configuration_is_refused() {
    for (json, message) in [
        ("", "the network configuration on stdin is not a JSON object"),
        ("[]", "the network configuration on stdin is not a JSON object"),
        ("{}", "cniVersion \"\" is not supported: 0.3.0, "),
        (r#"{"cniVersion":"0.2.0"}"#, "cniVersion \"0.2.0\" is not supported: "),
        (r#"{"cniVersion":1}"#, "cniVersion is 1: a text is allowed"),
        (r#"{"cniVersion":"1.0.0"}"#, "name is missing in the network configuration"),
        (r#"{"cniVersion":"1.0.0","name":"a/b"}"#, "name is not usable"),
        (
            r#"{"cniVersion":"1.0.0","name":"a","dataDir":"x"}"#,
            "dataDir is \"x\": an absolute path is allowed",
        ),
    ] {
        let error = Config::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{json}: {error}");
    }
    let deep = [br#"{"cniVersion":"#.as_slice(), &vec![b'['; 100_000]].concat();
    assert!(Config::parse(&deep).is_err());
    assert!(matches!(Config::parse(&vec![b' '; STDIN_LIMIT + 1]), Err(ConfigError::TooLarge)));
}

#[test]
fn long_values_are_shortened_in_errors() {
    let message = error(&format!(r#","snat":"{}""#, "ä".repeat(1000)));
    assert!(message.len() < 400, "{message}");
}

#[test]
fn errors_are_in_the_version_of_the_configuration() {
    assert_eq!(Config::version_of(br#"{"cniVersion":"0.4.0"}"#), CniVersion::V0_4_0);
    assert_eq!(Config::version_of(b"garbage"), CniVersion::V1_1_0);
}

#[test]
fn gc_without_a_list_is_refused_and_null_is_an_empty_list() {
    let valid = |keys| parse(keys).valid_attachments();
    assert!(valid("").is_err());
    assert!(valid(r#","cni.dev/valid-attachments":null"#).unwrap().is_empty());
    let one = r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
    assert_eq!(valid(one).unwrap().len(), 1);
    assert!(
        valid(r#","cni.dev/valid-attachments":[{"containerID":"../a","ifname":"x"}]"#).is_err()
    );
}

#[test]
fn misspelt_keys_are_noticed() {
    let config = parse(r#","hostListener":"shadow","capabilities":{"portMappings":true}"#);
    assert_eq!(config.unknown_keys().collect::<Vec<_>>(), ["hostListener"]);
}
