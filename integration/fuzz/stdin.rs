//! Everything that is read from stdin, as ADD, CHECK and GC read it.

#![no_main]

mod invariant;

use libfuzzer_sys::fuzz_target;
use portclaim::{
    cni::{Config, ConfigError, Environment, PrevResult},
    request::Sources,
};
use serde_json::value::RawValue;

fuzz_target!(|input: &[u8]| {
    let version = Config::version_of(input);
    let config = match Config::parse(input) {
        Ok(config) => config,
        Err(error) => return invariant::assert_readable(&error),
    };
    assert_eq!(version, config.version);
    let _ = (config.unknown_keys().count(), readable(config.lock_timeout()));
    let _ = (readable(config.logging()), readable(config.valid_attachments()));
    if let Some(result) = readable(config.prev_result()) {
        let interface = "eth0".parse().expect("the name is right");
        let addresses = result.container_addresses(&interface);
        let json = result.to_json(config.version);
        let again =
            PrevResult::parse(&RawValue::from_string(json.clone()).expect("the reply is JSON"));
        let again = again.expect("the reply is a result");
        assert_eq!(
            (again.container_addresses(&interface), again.to_json(config.version)),
            (addresses, json)
        );
    }
    let sources = readable(Sources::read(&config));
    let settings = readable(config.settings());
    let (Some(sources), Some(settings)) = (sources, settings) else { return };
    assert!(settings.groups.contains_key(&settings.default_group));
    assert!(
        settings
            .groups
            .values()
            .all(|group| !group.ports.is_empty() && !group.protocols.is_empty())
    );
    assert!((1..=4096).contains(&settings.max_per_pod));
    let arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0";
    let environment = Environment::read(|name| (name == "CNI_ARGS").then(|| arguments.to_owned()));
    for pod in [None, environment.pod()] {
        invariant::assert_answer(&sources, &settings, pod.as_ref());
    }
});

fn readable<T>(read: Result<T, ConfigError>) -> Option<T> {
    read.inspect_err(|error| invariant::assert_readable(error)).ok()
}
