//! A configuration as a person, or another program, wrote it: YAML or JSON.
#![no_main]

use dot_proxy_config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::from_yaml(text) {
        Ok(config) => {
            config.check().expect("what was read was checked");
            // What the injector writes on a pod is what the proxy reads from it.
            assert_eq!(Config::from_yaml(&config.to_json()).as_ref(), Ok(&config));
        }
        Err(error) => assert!(!error.to_string().trim().is_empty()),
    }
});
