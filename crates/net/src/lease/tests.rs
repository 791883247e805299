use super::*;

fn up() -> Up {
    Up {
        bridge: "pj0".into(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        subnet: (Ipv4Addr::new(10, 87, 0, 0), 29),
        prefix: None,
        mtu: 1500,
        held: false,
    }
}

fn member(ip: Ipv4Addr) -> Member {
    let [a, b, c, d] = ip.octets();
    Member {
        machine: format!("m{d}"),
        id: "0".into(),
        ip,
        ip6: None,
        mac: Mac([2, 112, a, b, c, d]),
        device: format!("v{d}"),
        names: Vec::new(),
    }
}

#[test]
fn addresses_are_given_once_and_come_back() {
    let run = tempfile::tempdir().unwrap();
    let directory = Directory::new(run.path(), "x");
    let _lock = directory.lock().unwrap();
    let up = up();
    let mut leases: Vec<(Lease, Member)> =
        (0..5).map(|_| directory.lease(&up, None, 3, member).unwrap()).collect();
    let mut given: Vec<u8> = leases.iter().map(|(_, m)| m.ip.octets()[3]).collect();
    assert_eq!(given[0], 5);
    given.sort_unstable();
    assert_eq!(given, [2, 3, 4, 5, 6]);
    let full = directory.lease(&up, None, 0, member).unwrap_err().to_string();
    assert!(full.contains("all 5 addresses"), "{full}");
    let taken = directory.lease(&up, Some(Ipv4Addr::new(10, 87, 0, 5)), 0, member);
    assert!(taken.unwrap_err().to_string().contains("in use by m5"));
    for bad in [0, 1, 7, 8] {
        assert!(directory.lease(&up, Some(Ipv4Addr::new(10, 87, 0, bad)), 0, member).is_err());
    }
    drop(leases.remove(0));
    assert_eq!(directory.living().len(), 4);
    let again = directory.lease(&up, Some(Ipv4Addr::new(10, 87, 0, 5)), 0, member);
    assert_eq!(again.unwrap().1.machine, "m5");
}

#[test]
fn leases_of_killed_monitors_are_free() {
    let run = tempfile::tempdir().unwrap();
    let directory = Directory::new(run.path(), "x");
    let _lock = directory.lock().unwrap();
    let (lease, _) = directory.lease(&up(), None, 0, member).unwrap();
    let path = lease.path.clone();
    // What a kill leaves: the file without its lock.
    let copy = std::fs::read(&path).unwrap();
    drop(lease);
    std::fs::write(&path, copy).unwrap();
    assert_eq!(directory.living(), []);
    // It is known until what it stood for is gone.
    directory.tidy(|_| false);
    assert!(path.exists());
    directory.tidy(|member| member.machine == "m2");
    assert!(!path.exists());
}

#[test]
fn renamed_machines_are_known_by_their_new_names() {
    let run = tempfile::tempdir().unwrap();
    let directory = Directory::new(run.path(), "x");
    let lock = directory.lock().unwrap();
    let named = |ip| {
        let names = vec!["web".into(), "web-alias".into()];
        Member { machine: "web".into(), id: format!("id of {ip}"), names, ..member(ip) }
    };
    // Two that had the same name one after the other.
    let (_lease, first) = directory.lease(&up(), None, 0, named).unwrap();
    directory.set_cuts(&[("db".into(), "web".into())]).unwrap();
    drop(lock);
    crate::networks::rename(run.path(), &first.id, "www", None).unwrap();
    let (_other, second) = directory.lease(&up(), None, 1, named).unwrap();
    crate::networks::rename(run.path(), &first.id, "w3", Some("host")).unwrap();
    let living = directory.living();
    let names: Vec<_> = living.iter().map(|m| (m.machine.as_str(), m.names.join(" "))).collect();
    assert_eq!(
        names,
        [("w3", "web-alias w3 host".to_owned()), ("web", "web web-alias".to_owned())]
    );
    assert_eq!(directory.cuts(), [("db".to_owned(), "w3".to_owned())]);
    assert_eq!(living[1].id, second.id);
    directory.clear_up();
    assert_eq!(directory.living()[0].machine, "web");
}
