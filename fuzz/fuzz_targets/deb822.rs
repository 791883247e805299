//! deb822(5) texts, and what is in their fields; sources.list(5); apt.conf(5); versions.
#![no_main]

use std::cmp::Ordering;

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::bootstrap::{apt_conf, date, deb822, relation, sources_list, version};

fuzz_target!(|text: &str| {
    for stanza in deb822::parse(text).unwrap_or_default() {
        for (name, value) in stanza.fields() {
            assert!(!name.is_empty() && !name.contains(['\n', ':']));
            assert!(stanza.get(name).is_some());
            let _ = deb822::words(value).count();
            let _ = date::parse(value);
            for alternative in relation::parse(value).unwrap_or_default().iter().flatten() {
                assert!(relation::is_package_name(alternative.name));
                let written = alternative.to_string();
                let again = relation::parse(&written).expect("a relation as it is written");
                assert_eq!(again, [[*alternative]], "{written:?}");
            }
        }
    }
    let _ = apt_conf::check_valid_until(text);
    let _ = sources_list::parse_one_line(text);
    let _ = sources_list::parse_deb822(text);
    let versions: Vec<&str> = text.splitn(4, '\n').collect();
    if let [a, b, c, ..] = versions[..] {
        let order = version::compare(a, b);
        assert_eq!(version::compare(b, a), order.reverse());
        assert_eq!(version::compare(a, a), Ordering::Equal);
        if order == version::compare(b, c) {
            assert_eq!(version::compare(a, c), order, "{a:?} {b:?} {c:?}");
        }
    }
});
