//! A pod's annotations and labels, one `name=value` a line; a label's line begins with `!`.
#![no_main]

use std::collections::BTreeMap;

use dot_injector::annotations::{INJECT, PREFIX, inject, namespace_asks, overrides, used_overrides, warnings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (mut annotations, mut labels) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        let (map, line) = line.strip_prefix('!').map_or((&mut annotations, line), |line| (&mut labels, line));
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        map.insert(name.to_owned(), value.to_owned());
    }
    match inject(&annotations) {
        Ok(asked) => assert_eq!(asked.is_some(), annotations.contains_key(INJECT)),
        Err(bad) => assert!(bad.to_string().contains(INJECT)),
    }
    assert_eq!(namespace_asks(&labels), labels.get(INJECT).is_some_and(|value| value == "true"));
    match overrides(&annotations) {
        Ok(overrides) => {
            let read = [
                overrides.upstream.is_some(),
                overrides.log_level.is_some(),
                overrides.cpu_request.is_some(),
                overrides.cpu_limit.is_some(),
                overrides.memory_request.is_some(),
                overrides.memory_limit.is_some(),
                overrides.image.is_some(),
            ];
            let used: Vec<_> = used_overrides(&annotations).collect();
            assert_eq!(read.into_iter().filter(|read| *read).count(), used.len());
            // What is written again from what was read means the same.
            for server in overrides.upstream.into_iter().flatten() {
                assert_eq!(server.to_string().parse().as_ref(), Ok(&server));
            }
            let quantities =
                [overrides.cpu_request, overrides.cpu_limit, overrides.memory_request, overrides.memory_limit];
            for quantity in quantities.into_iter().flatten() {
                assert_eq!(quantity.to_string().parse().as_ref(), Ok(&quantity));
            }
        }
        Err(bad) => assert!(bad.annotation.starts_with(PREFIX) && !bad.message.is_empty()),
    }
    let warnings = warnings(&annotations, &labels);
    let ours = annotations.keys().chain(labels.keys()).filter(|name| name.starts_with(PREFIX)).count();
    assert!(warnings.len() <= ours);
});
