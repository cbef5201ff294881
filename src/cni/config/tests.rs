//! Configurations that are taken, and those that are refused.

use super::*;

/// A configuration with these keys, each after a comma.
pub(super) fn parse(keys: &str) -> Config {
    let json = format!(r#"{{"cniVersion":"1.0.0","name":"net","type":"portclaim"{keys}}}"#);
    Config::parse(json.as_bytes()).unwrap()
}

/// Why the settings of such a configuration are refused.
pub(super) fn error(keys: &str) -> String {
    parse(keys).settings().unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = parse("");
    let settings = config.settings().unwrap();
    assert_eq!(settings.default_group.as_str(), "default");
    assert_eq!(settings.groups.keys().collect::<Vec<_>>(), [&settings.default_group]);
    assert_eq!(settings.max_per_pod, 64);
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
        "conditionsV4":null,"markMasqBit":null,"logFile":null,"lockTimeout":null,"static":null,
        "maxPerPod":null,"defaultGroup":null"#,
    );
    assert_eq!(nothing.settings().unwrap(), parse("").settings().unwrap());
    assert!(nothing.runtime_config("portMappings").unwrap().is_none());
    let config = parse(r#","runtimeConfig":{"portMappings":null}"#);
    assert!(config.runtime_config("portMappings").unwrap().is_none());
}

#[test]
fn wrong_values_are_refused_with_key_value_and_what_is_allowed() {
    for (keys, message) in [
        (
            r#","acceptIn":"inet filter forward""#,
            "acceptIn is \"inet filter forward\": an array of chains like \"inet filter forward\" is \
             allowed",
        ),
        (
            r#","acceptIn":["inet filter forward","forward"]"#,
            "acceptIn[1] is \"forward\": chains like \"inet TABLE CHAIN\", \"ip TABLE CHAIN\", \
             \"ip6 TABLE CHAIN\", \"iptables CHAIN\" and \"ip6tables CHAIN\" are allowed",
        ),
        (r#","formerly":"other""#, "formerly is \"other\": \"portmap\" is allowed"),
        (r#","snat":"yes""#, "snat is \"yes\": true or false is allowed"),
        (r#","exclude":80"#, "exclude is 80: a text like \"7000-7999,8443\" is allowed"),
        (r#","exclude":"80-""#, "exclude is \"80-\": \"\" is not a port from 1 to 65535"),
        (r#","maxPerPod":0"#, "maxPerPod is 0: a whole number from 1 to 4096 is allowed"),
        (r#","maxPerPod":4097"#, "maxPerPod is 4097: a whole number from 1 to 4096 is allowed"),
        (r#","maxPerPod":64.0"#, "maxPerPod is 64.0: a whole number from 1 to 4096 is allowed"),
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
            "backend is \"iptables\": it has no meaning on nftables, remove it or write \"netlink\"",
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
fn values_of_the_runtime_come_as_they_are_written() {
    let config = parse(r#","runtimeConfig":{"a": [ 1.0,{"b":1,"b":2}] , "\u0062":"x","c":null}"#);
    let value = |key| config.runtime_config(key).unwrap().map(RawValue::get);
    assert_eq!(value("a"), Some(r#"[ 1.0,{"b":1,"b":2}]"#));
    assert_eq!((value("b"), value("c"), value("d")), (Some("\"x\""), None, None));
    let message = parse(r#","runtimeConfig":[]"#).runtime_config("a").unwrap_err().to_string();
    assert_eq!(message, "runtimeConfig is []: an object is allowed");
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
    let long = "ä\u{202e}\\u0000".repeat(10_000);
    for keys in [
        format!(r#","snat":"{long}""#),
        format!(r#","exclude":"{long}""#),
        format!(r#","groups":{{"{long}":{{}}}}"#),
        format!(r#","groups":{{"default":{{"{long}":{{}}}}}}"#),
        format!(r#","groups":{{"default":{{"ports":"{long}"}}}}"#),
        format!(r#","groups":{{"default":{{"namespaces":["{long}"]}}}}"#),
        format!(r#","static":{{"{long}":{{}}}}"#),
        format!(r#","static":{{"annotations":["{long}"]}}"#),
        format!(r#","defaultGroup":"{long}""#),
    ] {
        let message = error(&keys);
        assert!(message.len() < 1000, "{message}");
        assert!(!message.contains(['\u{202e}', '\0']), "{message}");
    }
    let message = parse(&format!(r#","runtimeConfig":"{long}""#)).runtime_config("x").unwrap_err();
    assert!(message.to_string().len() < 1000, "{message}");
    let message = Config::parse(format!("\"{long}\"").as_bytes()).unwrap_err();
    assert!(std::error::Error::source(&message).unwrap().to_string().len() < 1000, "{message}");
}

#[test]
fn errors_are_in_the_version_of_the_configuration() {
    assert_eq!(Config::version_of(br#"{"cniVersion":"0.4.0"}"#), CniVersion::V0_4_0);
    // As in the other reading, the last of two counts.
    let twice = br#"{"cniVersion":"1.0.0","cniVersion":"0.4.0","name":"n"}"#;
    assert_eq!(Config::version_of(twice), Config::parse(twice).unwrap().version);
    for json in ["garbage", "{}", r#"{"cniVersion":1}"#, r#"{"cniVersion":"0.2.0"}"#] {
        assert_eq!(Config::version_of(json.as_bytes()), CniVersion::V1_1_0);
    }
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
