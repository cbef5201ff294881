//! Annotations of a pod: both forms of the ports, and the defaults beside them.
//!
//! An input is a byte that chooses the configuration, then a line for each of
//! the annotations; an empty one is not there.

#![no_main]

mod invariant;
mod situation;

use libfuzzer_sys::fuzz_target;
use portclaim::request::Sources;
use serde_json::{Map, value::to_raw_value};

fuzz_target!(|input: &[u8]| {
    let Some((settings, pod, text)) = situation::read(input) else { return };
    let mut annotations = Map::new();
    annotations.insert("hostport.io/enabled".to_owned(), "true".into());
    for (key, line) in ["ports", "group", "strategy", "base-port", "claim", "health"]
        .into_iter()
        .zip(text.split('\n'))
    {
        if !line.is_empty() {
            annotations.insert(format!("hostport.io/{key}"), line.into());
        }
    }
    let annotations = to_raw_value(&annotations).expect("texts can be written as JSON");
    let sources = Sources { annotations: Some(&annotations), ..Sources::default() };
    invariant::assert_answer(&sources, settings, pod.as_ref());
});
