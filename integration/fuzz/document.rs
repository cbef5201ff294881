//! The JSON of port claims, and of port mappings, which has the same shape. An
//! input is a byte that chooses the configuration, then the JSON.

#![no_main]

mod invariant;
mod situation;

use libfuzzer_sys::fuzz_target;
use portclaim::request::Sources;
use serde_json::{json, value::RawValue, value::to_raw_value};

fuzz_target!(|input: &[u8]| {
    let Some((settings, pod, text)) = situation::read(input) else { return };
    // The annotation takes texts that are no JSON as well.
    let annotations = json!({"hostport.io/enabled": "true", "hostport.io/ports": text});
    let annotations = to_raw_value(&annotations).expect("texts can be written as JSON");
    let annotated = Sources { annotations: Some(&annotations), ..Sources::default() };
    invariant::assert_answer(&annotated, settings, pod.as_ref());
    let Ok(raw) = RawValue::from_string(text.to_owned()) else { return };
    for sources in [
        Sources { port_claims: Some(&raw), ..Sources::default() },
        Sources { port_mappings: Some(&raw), ..Sources::default() },
        Sources { port_claims: Some(&raw), port_mappings: Some(&raw), annotations: Some(&raw) },
    ] {
        invariant::assert_answer(&sources, settings, pod.as_ref());
    }
});
