//! The node and the pod for which an input is read.

use std::sync::LazyLock;

use portclaim::{
    cni::{Config, config::Settings},
    lease::Pod,
};

/// Configurations of which an input's first byte chooses one.
const CONFIGURATIONS: [&str; 4] = [
    "",
    r#","maxPerPod":4096,"static":{"annotations":true},
        "groups":{"default":{"ports":"1-65535"},"g":{"ports":"80,7000-7999"}}"#,
    r#","maxPerPod":8,"defaultGroup":"g","static":{"portMappings":false,
        "annotations":[{"ports":"1-1100","protocols":["tcp"]},{"ports":"7000-7999","namespaces":["s*"]}],
        "portClaims":[{"ports":"8000-8010","namespaces":["x"]},{"ports":"9000"}]},
        "groups":{"g":{"ports":"7000-7999,80","protocols":["tcp","udp"],"maxPerPod":3},
            "h":{"ports":"8000-8003","namespaces":["shop"],"strategy":"sequential"}}"#,
    r#","static":{"annotations":true},"groups":{"default":{"namespaces":["other"]},
        "g":{"ports":"443,500","strategy":"least-recently-used","protocols":["sctp"]}}"#,
];

static SETTINGS: LazyLock<Vec<Settings>> = LazyLock::new(|| {
    let parse = |keys: &str| {
        let json = format!(r#"{{"cniVersion":"1.0.0","name":"n"{keys}}}"#);
        Config::parse(json.as_bytes()).and_then(|config| config.settings())
    };
    CONFIGURATIONS.map(|keys| parse(keys).expect("the configuration is right")).into()
});

/// The settings, the pod or none, and the text that an input stands for; none for
/// what no runtime could pass on.
pub fn read(input: &[u8]) -> Option<(&'static Settings, Option<Pod>, &str)> {
    let (first, rest) = input.split_first()?;
    let settings = &SETTINGS[usize::from(first % 4)];
    let pod = (first & 4 == 0).then(pod);
    Some((settings, pod, std::str::from_utf8(rest).ok()?))
}

fn pod() -> Pod {
    let name = "web-0".parse().expect("the name is right");
    Pod { namespace: "shop".parse().expect("the namespace is right"), name, uid: None }
}
