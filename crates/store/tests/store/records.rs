//! Records, names and leases.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::scratch::{Scratch, add, id, image, text};

#[test]
fn an_image_is_found_by_name_and_by_id() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let one = add(&store, 0x1111_1111, &["debian-12", "docker.io/library/debian:12"]);
    let two = add(&store, 0x1111_2222, &["ü/%/\n", &"long ".repeat(800)]);
    let store = scratch.open();
    for (name, found) in [
        ("debian-12", Some(&one)),
        ("docker.io/library/debian:12", Some(&one)),
        ("ü/%/\n", Some(&two)),
        (&"long ".repeat(800)[..], Some(&two)),
        ("11111", Some(&one)),
        ("111111110", Some(&one)),
        (&two.id[..], Some(&two)),
        ("11112", Some(&two)),
        ("debian", None),
        ("debian-12%", None),
        ("111", None),
        ("2222", None),
        ("11111111z", None),
        (".", None),
        ("..", None),
        ("../images", None),
        ("../version", None),
        (&"long ".repeat(801)[..], None),
    ] {
        assert_eq!(store.find(name).unwrap().as_ref(), found, "{name:?}");
    }
    assert!(text(store.find("1111")).contains("\"1111\" is the beginning of 2 ids"));
    assert!(text(store.find("")).contains("must not be empty"));
    // A name goes before an id.
    store.tag(&two, "11111").unwrap();
    assert_eq!(store.find("11111").unwrap(), Some(two));
}

#[test]
fn images_are_listed_with_their_names() {
    let scratch = Scratch::new();
    let store = scratch.open();
    add(&store, 1, &["z", "b"]);
    add(&store, 2, &[]);
    add(&store, 3, &["a", &"x".repeat(300)]);
    let list: Vec<_> = store.images().unwrap().into_iter().map(|n| (n.image.id, n.names)).collect();
    let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        list,
        [
            (id(3), names(&["a", &"x".repeat(300)])),
            (id(1), names(&["b", "z"])),
            (id(2), names(&[])),
        ]
    );
}

#[test]
fn names_move_and_the_last_one_takes_the_image_along() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let one = add(&store, 1, &["latest", "one"]);
    let two = add(&store, 2, &["latest"]);
    assert_eq!(store.find("latest").unwrap(), Some(two.clone()));
    store.tag(&one, "also").unwrap();
    let removed = store.untag("also").unwrap();
    assert!(!removed.deleted && removed.names == ["also"] && removed.id == one.id);
    let removed = store.untag("one").unwrap();
    assert!(removed.deleted && removed.layers == 1);
    assert!(!store.layer_path(&one.id).exists() && store.layer_path(&two.id).exists());
    assert!(text(store.untag("one")).contains("there is no image \"one\""));
    assert!(text(store.tag(&one, "again")).contains("was removed meanwhile"));
    // By an id: as long as it has one name, or none.
    store.tag(&two, "other").unwrap();
    let error = text(store.untag("00000002"));
    assert!(error.contains("has several names: remove them one by one: latest, other"), "{error}");
    store.untag("other").unwrap();
    assert!(store.untag("00000002").unwrap().deleted);
    assert!(store.check().unwrap().is_empty());
    for dir in ["images", "names", "layers", "tmp"] {
        assert!(scratch.list(dir).is_empty(), "{dir}");
    }
}

#[test]
fn shared_layers_stay() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let one = add(&store, 1, &["one"]);
    add(&store, 2, &["two"]);
    let mut both = image(3);
    both.layers = vec![id(1), id(2)];
    store.record(&both, &["both".into()]).unwrap();
    assert_eq!(store.untag("one").unwrap().layers, 0);
    assert_eq!(store.untag("both").unwrap().layers, 1);
    assert!(!store.layer_path(&one.id).exists());
    assert!(store.check().unwrap().is_empty());
}

#[test]
fn a_lease_protects() {
    let scratch = Scratch::new();
    let one = add(&scratch.open(), 1, &["a", "b"]);
    let user = scratch.open();
    let lease = user.lease(&user.find("a").unwrap().unwrap()).unwrap();
    let second = user.lease(&one).unwrap();
    let store = scratch.open();
    // Names may go, but not the last one.
    assert!(!store.untag("a").unwrap().deleted);
    let wanted = "image b is in use by a running machine: stop that first";
    assert_eq!(text(store.untag("b")), wanted);
    assert_eq!(text(store.untag("00000001")), wanted.replace(" b ", " 00000001 "));
    assert_eq!(store.prune(true).unwrap().images, 0);
    assert_eq!(store.find("b").unwrap(), Some(one.clone()));
    drop(lease);
    assert_eq!(text(store.untag("b")), wanted);
    drop(second);
    assert!(store.untag("b").unwrap().deleted);
    assert_eq!(text(user.lease(&one)), "image 000000010000 was removed meanwhile");
}

#[test]
fn recording_again_does_not_break_a_lease() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let mut one = add(&store, 1, &["a"]);
    let file = scratch.dir().join(format!("images/{}.json", one.id));
    let before = fs::metadata(&file).unwrap().ino();
    store.record(&one, &["b".into()]).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().ino(), before, "an equal record is not written again");
    let lease = scratch.open().lease(&one).unwrap();
    one.created = 2;
    store.record(&one, &["c".into()]).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().ino(), before, "a leased record is not replaced");
    assert!(
        text(
            store
                .prune(true)
                .map(|swept| assert_eq!(swept.images, 0))
                .and_then(|()| store.untag("a"))
                .and_then(|_| store.untag("b"))
                .and_then(|_| store.untag("c"))
        )
        .contains("in use")
    );
    drop(lease);
    store.record(&one, &["c".into()]).unwrap();
    assert_eq!(store.find("c").unwrap().unwrap().created, 2);
    one.layers.push(id(2));
    add(&store, 2, &[]);
    let error = text(store.record(&one, &[]));
    assert!(error.contains("exists with other layers"), "{error}");
}

#[test]
fn a_record_needs_its_layers_and_sane_ids() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let error = text(store.record(&image(1), &["a".into()]));
    assert!(error.contains("image 000000010000 lacks its layer 00000001"), "{error}");
    for bad in ["", "../../etc", "A", &"g".repeat(64), &"a".repeat(63), &"A".repeat(64)] {
        let mut wrong = image(1);
        wrong.layers = vec![bad.into()];
        assert!(text(store.record(&wrong, &[])).contains("is no id"), "{bad}");
        let mut wrong = image(1);
        wrong.id = bad.into();
        assert!(text(store.record(&wrong, &[])).contains("is no id"), "{bad}");
        assert!(text(store.lease(&wrong)).contains("is no id"), "{bad}");
        assert!(text(store.tag(&wrong, "x")).contains("is no id"), "{bad}");
        assert!(text(store.new_layer().unwrap().commit(bad)).contains("is no id"), "{bad}");
    }
    assert!(text(store.record(&image(1), &["".into()])).contains("must not be empty"));
    assert!(scratch.list("names").is_empty() && scratch.list("images").is_empty());
}

#[test]
fn a_damaged_record_says_so_and_can_be_removed() {
    let scratch = Scratch::new();
    let store = scratch.open();
    add(&store, 1, &["good"]);
    let file = scratch.dir().join(format!("images/{}.json", id(2)));
    let damages: [fn(&str) -> String; 6] = [
        |text| text[..100].into(),
        |_| String::new(),
        |text| text.replace("\"layers\"", "\"lawyers\""),
        |text| text.replace(&format!("[\"{}\"]", id(2)), "[\"../../../etc\"]"),
        |text| text.replace("\"kind\":\"tar\"", "\"kind\":\"future\""),
        |_| "[".repeat(100_000),
    ];
    for damage in damages {
        add(&store, 2, &["bad"]);
        let text_now = fs::read_to_string(&file).unwrap();
        fs::write(&file, damage(&text_now)).unwrap();
        let error = text(store.find("bad"));
        let wanted = "the record of image bad is damaged: remove it with `postroj rmi bad`, and pull it again";
        assert!(error.starts_with(wanted), "{error}");
        assert!(text(store.images()).contains(&format!("`postroj rmi {}`", id(2))));
        assert_eq!(store.check().unwrap().len(), 1, "{:?}", store.check());
        // While nobody knows what it needs, no layer goes.
        assert_eq!(store.sweep().unwrap().layers, 0);
        let removed = store.untag("bad").unwrap();
        assert!(removed.deleted && removed.layers == 1);
        assert!(store.check().unwrap().is_empty());
    }
    // What is no longer what was written, though it can be read, is found by looking closely.
    add(&store, 2, &["bad"]);
    let text_now = fs::read_to_string(&file).unwrap();
    fs::write(&file, text_now.replace("/bin/sh", "/bin/zh")).unwrap();
    let problems = store.check().unwrap();
    assert!(problems[0].contains("is damaged: its digest is wrong"), "{problems:?}");
    assert!(store.untag("00000002").unwrap().deleted);
}

#[test]
fn a_large_record_is_read_whole() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let mut large = add(&store, 1, &[]);
    for size in [30_000, 32_000, 32_768, 65_536, 1_000_000] {
        large.id = id(size);
        large.config.cmd = vec!["x".repeat(size as usize)];
        store.record(&large, &["large".into()]).unwrap();
        assert_eq!(store.find("large").unwrap().as_ref(), Some(&large), "{size}");
    }
}
