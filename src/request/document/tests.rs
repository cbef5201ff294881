//! Documents that are read, and those that are refused.

use super::*;

fn parse(json: &str) -> Result<Vec<Ask>, String> {
    super::parse(json, Source::PortClaims, None).map_err(|error| error.to_string())
}

#[test]
fn every_field_is_read() {
    let json = r#" [
        {"containerPort": 80},
        {"name": "game", "containerPort": "same", "protocol": "TCP+udp", "count": 4,
         "group": "games", "preferredPort": 7000, "hostIP": "192.0.2.1", "claim": "arena"},
        {"containerPort": 53, "protocol": "udp", "hostPort": 5353, "hostIP": "",
         "name": null, "group": null, "count": null},
        {"na\u006de": "\u0061", "containerPort": "\u0073ame"}
    ] "#;
    let asks = parse(json).unwrap();
    let port = |number| Port::new(number).unwrap();
    assert_eq!(asks[0].wish, Wish::Dynamic(Fit::default()));
    assert_eq!((asks[0].count, asks[0].protocols), (1, Protocol::Tcp.into()));
    assert_eq!(
        asks[1],
        Ask {
            place: Place { source: Source::PortClaims, index: 1 },
            name: Some("game".parse().unwrap()),
            container: ContainerPort::Same,
            protocols: crate::lease::Protocols::TCP_AND_UDP,
            address: "192.0.2.1".parse().unwrap(),
            count: 4,
            wish: Wish::Dynamic(Fit {
                group: Some("games".parse().unwrap()),
                preferred: Some(port(7000)),
                claim: Some("arena".parse().unwrap()),
                ..Fit::default()
            }),
        }
    );
    assert_eq!(asks[2].wish, Wish::Static(port(5353)));
    assert_eq!(asks[2].container, ContainerPort::Number(port(53)));
    assert_eq!(asks[3].name, Some("a".parse().unwrap()));
    assert_eq!(asks[3].container, ContainerPort::Same);
    assert_eq!(parse(" [ ] ").unwrap(), []);
}

#[test]
fn errors_name_entry_field_value_and_character() {
    const NUMBER: &str = "a number from 1 to 65535 is allowed";
    const SAME: &str = "a number from 1 to 65535, or \"same\", is allowed";
    const KNOWN: &str = "is not known: name, containerPort, protocol, group, count, hostPort, preferredPort, hostIP, claim are allowed";
    for (fields, message) in [
        ("", "1: containerPort is missing".to_owned()),
        (r#""containerPort":null"#, "1: containerPort is missing".to_owned()),
        (r#""containerPort":0"#, format!("18: containerPort is 0: {SAME}")),
        (r#""containerPort":65536"#, format!("18: containerPort is 65536: {SAME}")),
        (r#""containerPort":8e1"#, format!("18: containerPort is 8e1: {SAME}")),
        (r#""containerPort":80.0"#, format!("18: containerPort is 80.0: {SAME}")),
        (r#""containerPort":1e400"#, format!("18: containerPort is 1e400: {SAME}")),
        (r#""containerPort":"80""#, format!("18: containerPort is \"80\": {SAME}")),
        (r#""containerPort":[[1]]"#, format!("18: containerPort is [[1]]: {SAME}")),
        (r#""containerPort":1,"count":0"#, format!("28: count is 0: {NUMBER}")),
        (r#""containerPort":1,"count":-1"#, format!("28: count is -1: {NUMBER}")),
        (r#""containerPort":1,"count":"2""#, format!("28: count is \"2\": {NUMBER}")),
        (r#""containerPort":1,"hostPort":0"#, format!("31: hostPort is 0: {NUMBER}")),
        (
            r#""containerPort":1,"name":"A""#,
            "27: name is \"A\": a DNS label is allowed: at most 63 lower-case letters, digits and '-', a letter or digit at both ends".to_owned(),
        ),
        (
            r#""name":"\ud800","containerPort":1"#,
            "9: name is \"\\ud800\": a text is allowed".to_owned(),
        ),
        (
            r#""containerPort":1,"protocol":"icmp""#,
            "31: protocol is \"icmp\": tcp, udp, sctp or tcp+udp is allowed".to_owned(),
        ),
        (
            r#""containerPort":1,"protocol":6"#,
            "31: protocol is 6: a text is allowed".to_owned(),
        ),
        (
            r#""containerPort":1,"hostIP":"::1""#,
            "29: hostIP is \"::1\": of loopback addresses, those of IPv4 are allowed".to_owned(),
        ),
        (
            r#""containerPort":1,"group":"../x""#,
            "28: group is \"../x\": 1 to 63 letters, digits, '-' and '_' are allowed".to_owned(),
        ),
        (
            r#""containerPort":1,"name":"a","claim":"$(POD_NAME)""#,
            "39: claim is \"$(POD_NAME)\": without a pod, neither $(POD_NAME) nor $(POD_NAMESPACE) is allowed".to_owned(),
        ),
        (
            r#""containerPort":1,"claim":"a""#,
            "28: claim cannot be given without name".to_owned(),
        ),
        (r#""containerport":1"#, format!("2: \"containerport\" {KNOWN}")),
        (r#""containerPort":1,"\u202e":1"#, format!("20: \"\\u{{202e}}\" {KNOWN}")),
        (
            r#""containerPort":1,"containerPort":1"#,
            "20: containerPort is there a second time".to_owned(),
        ),
        (
            r#""containerPort":1,"n\u0061me":null,"name":"a""#,
            "37: name is there a second time".to_owned(),
        ),
        (
            r#""containerPort":65535,"count":2"#,
            "18: a block of 2 from containerPort 65535 up ends beyond 65535".to_owned(),
        ),
        (
            r#""containerPort":1,"hostPort":65000,"count":600"#,
            "31: a block of 600 from hostPort 65000 up ends beyond 65535".to_owned(),
        ),
        (
            r#""containerPort":1,"preferredPort":65535,"count":2"#,
            "36: a block of 2 from preferredPort 65535 up ends beyond 65535".to_owned(),
        ),
        (
            r#""containerPort":1,"hostPort":1,"group":"g""#,
            "41: group cannot be given together with hostPort".to_owned(),
        ),
        (
            r#""containerPort":1,"hostPort":1,"preferredPort":1"#,
            "49: preferredPort cannot be given together with hostPort".to_owned(),
        ),
        (
            r#""name":"a","containerPort":1,"hostPort":1,"claim":"g""#,
            "52: claim cannot be given together with hostPort".to_owned(),
        ),
    ] {
        let before = r#"[{"containerPort":2}, "#;
        let (character, rest) = message.split_once(": ").unwrap();
        let character = character.parse::<usize>().unwrap() + before.chars().count();
        let expected = format!("runtimeConfig.portClaims, entry 2, character {character}: {rest}");
        assert_eq!(parse(&format!("{before}{{{fields}}}]")), Err(expected), "{fields}");
    }
}

#[test]
fn what_is_no_array_of_objects_is_refused_with_its_place() {
    for (json, message) in [
        ("", "1: this is not JSON: EOF while parsing a value"),
        ("[{\"containerPort\": 80}", "22: this is not JSON: EOF while parsing a list"),
        ("[{\"name\":\"ä\"\n \"x\":1}]", "15: this is not JSON: expected `,` or `}`"),
        ("[{\"containerPort\": 080}]", "21: this is not JSON: invalid number"),
        ("[] []", "4: this is not JSON: trailing characters"),
        (" {\"a\": 1}", "2: {\"a\": 1} is not an array of objects"),
        ("\"a\"", "1: \"a\" is not an array of objects"),
        ("[{\"containerPort\":1}, [1]]", "23: [1] is not an object"),
        ("[null]", "2: null is not an object"),
        (
            "[{\"name\":\"a\0\"}]",
            "11: this is not JSON: control character (\\u0000-\\u001F) found while parsing a string",
        ),
    ] {
        let expected = format!("runtimeConfig.portClaims, character {message}");
        assert_eq!(parse(json), Err(expected), "{json}");
    }
}

#[test]
fn characters_are_those_of_the_text() {
    let message = parse("[{\"containerPort\":1,\"name\":\"ä\"},{}]").unwrap_err();
    assert!(
        message.starts_with("runtimeConfig.portClaims, entry 1, character 28: name is \"ä\""),
        "{message}"
    );
    let message = parse("[{\"containerPort\":1,\"hostIP\":\"äöü\"}]").unwrap_err();
    assert!(message.contains("character 30: hostIP"), "{message}");
}
