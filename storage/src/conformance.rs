//! What every disk must do alike: the suite that the real and the simulated disk both pass.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, OpenMode};

/// Runs every case in a directory of its own under `root`. Panics at the first difference.
pub(crate) fn run(disk: Arc<dyn Disk>, root: &Path) {
    type Case = (&'static str, fn(&dyn Disk, &Path));
    let cases: [Case; 10] = [
        ("files_grow_by_writing", files_grow_by_writing),
        ("open_modes", open_modes),
        ("allocation_keeps_the_length", allocation_keeps_the_length),
        ("cutting_and_growing", cutting_and_growing),
        ("zeros_are_written_where_asked", zeros_are_written_where_asked),
        ("maps_show_what_is_written_later", maps_show_what_is_written_later),
        ("removed_files_live_on_while_open", removed_files_live_on_while_open),
        ("renaming_replaces", renaming_replaces),
        ("directories", directories),
        ("locks_are_exclusive", locks_are_exclusive),
    ];
    for (name, case) in cases {
        let dir = root.join(name);
        disk.create_dir_all(&dir).expect(name);
        case(&*disk, &dir);
    }
    let space = disk.space(root).expect("space");
    assert!(space.usable <= space.total && space.total > 0);
}

fn files_grow_by_writing(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("a"), OpenMode::New).expect("create");
    assert!(file.is_empty().expect("len"));
    file.write_at(b"hello", 0).expect("write");
    file.write_at(b"world", 10).expect("write");
    assert_eq!(file.len().expect("len"), 15);
    let mut bytes = [1; 32];
    assert_eq!(file.read_at(&mut bytes, 0).expect("read"), 15);
    assert_eq!(&bytes[..15], b"hello\0\0\0\0\0world");
    assert_eq!(file.read_at(&mut bytes, 15).expect("read"), 0);
    assert_eq!(file.read_at(&mut bytes, 99).expect("read"), 0);
    assert_eq!(file.read_at(&mut bytes[..2], 11).expect("read"), 2);
    assert_eq!(&bytes[..2], b"or");
    file.sync_data().expect("sync");
    assert_eq!(disk.read(&dir.join("a")).expect("read").len(), 15);
}

fn open_modes(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    assert_eq!(disk.open(&path, OpenMode::Existing).expect_err("missing").kind(), ErrorKind::NotFound);
    disk.open(&path, OpenMode::New).expect("create").write_at(b"x", 0).expect("write");
    assert_eq!(disk.open(&path, OpenMode::New).expect_err("exists").kind(), ErrorKind::AlreadyExists);
    assert_eq!(disk.open(&path, OpenMode::Existing).expect("open").len().expect("len"), 1);
    assert_eq!(disk.open(&path, OpenMode::Replace).expect("open").len().expect("len"), 0);
    let nowhere = dir.join("none").join("a");
    assert_eq!(disk.open(&nowhere, OpenMode::New).expect_err("no directory").kind(), ErrorKind::NotFound);
}

fn allocation_keeps_the_length(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("a"), OpenMode::New).expect("create");
    file.allocate(0, 1 << 20).expect("allocate");
    assert_eq!(file.len().expect("len"), 0);
    file.write_at(b"abc", 0).expect("write");
    assert_eq!(file.len().expect("len"), 3);
    file.set_len(3).expect("give back");
    assert_eq!(file.len().expect("len"), 3);
}

fn cutting_and_growing(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("a"), OpenMode::New).expect("create");
    file.write_at(&[9; 10_000], 0).expect("write");
    file.set_len(5_000).expect("cut");
    file.write_at(&[8; 10], 6_000).expect("write");
    let mut bytes = vec![1; 6_010];
    assert_eq!(file.read_at(&mut bytes, 0).expect("read"), 6_010);
    assert!(bytes[..5_000].iter().all(|byte| *byte == 9), "what was kept");
    assert!(bytes[5_000..6_000].iter().all(|byte| *byte == 0), "what was cut reads as zeros");
    assert!(bytes[6_000..].iter().all(|byte| *byte == 8), "what came after");
}

fn zeros_are_written_where_asked(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("a"), OpenMode::New).expect("create");
    file.write_at(&[9; 1_000], 0).expect("write");
    file.write_zeros(300_000, 900).expect("fill");
    file.write_at(&[8; 100], 900).expect("write");
    let bytes = disk.read(&dir.join("a")).expect("read");
    assert_eq!(bytes.len(), 300_900);
    assert!(bytes[..900].iter().all(|byte| *byte == 9) && bytes[900..1_000].iter().all(|byte| *byte == 8));
    assert!(bytes[1_000..].iter().all(|byte| *byte == 0));
}

fn maps_show_what_is_written_later(disk: &dyn Disk, dir: &Path) {
    let file = disk.open(&dir.join("a"), OpenMode::New).expect("create");
    file.write_at(&[1; 100], 0).expect("write");
    let map = file.map(1 << 20).expect("map");
    assert_eq!(map.len(), 1 << 20);
    let early = Arc::clone(&map).slice(50, 50, Arc::new(()));
    file.write_at(&[2; 10_000], 100).expect("write");
    let mut header = [0; 8];
    map.copy_to(96, &mut header);
    assert_eq!(header, [1, 1, 1, 1, 2, 2, 2, 2]);
    assert_eq!(Arc::clone(&map).slice(10_000, 100, Arc::new(())).as_ref(), [2; 100]);
    assert_eq!(Arc::clone(&map).slice(0, 0, Arc::new(())).len(), 0);
    disk.remove_file(&dir.join("a")).expect("remove");
    drop((file, map));
    assert_eq!(early.as_ref(), [1; 50]);
}

fn removed_files_live_on_while_open(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    let file = disk.open(&path, OpenMode::New).expect("create");
    file.write_at(b"old", 0).expect("write");
    disk.remove_file(&path).expect("remove");
    assert_eq!(disk.remove_file(&path).expect_err("gone").kind(), ErrorKind::NotFound);
    let again = disk.open(&path, OpenMode::New).expect("create");
    again.write_at(b"newer", 0).expect("write");
    file.write_at(b"!", 3).expect("write");
    let mut bytes = [0; 8];
    assert_eq!(file.read_at(&mut bytes, 0).expect("read"), 4);
    assert_eq!(&bytes[..4], b"old!");
    assert_eq!(disk.read(&path).expect("read"), b"newer");
}

fn renaming_replaces(disk: &dyn Disk, dir: &Path) {
    let (from, to) = (dir.join("from"), dir.join("to"));
    disk.open(&to, OpenMode::New).expect("create").write_at(b"old", 0).expect("write");
    disk.open(&from, OpenMode::New).expect("create").write_at(b"new", 0).expect("write");
    disk.rename(&from, &to).expect("rename");
    assert_eq!(disk.read(&to).expect("read"), b"new");
    assert_eq!(disk.rename(&from, &to).expect_err("gone").kind(), ErrorKind::NotFound);
    disk.sync_dir(dir).expect("sync");

    let (inner, moved) = (dir.join("d"), dir.join("e"));
    disk.create_dir_all(&inner).expect("create");
    disk.open(&inner.join("x"), OpenMode::New).expect("create").write_at(b"x", 0).expect("write");
    disk.rename(&inner, &moved).expect("rename");
    assert_eq!(disk.read(&moved.join("x")).expect("read"), b"x");
    assert_eq!(disk.list(&inner).expect_err("gone").kind(), ErrorKind::NotFound);
}

fn directories(disk: &dyn Disk, dir: &Path) {
    let deep = dir.join("b").join("c");
    disk.create_dir_all(&deep).expect("create");
    disk.create_dir_all(&deep).expect("twice is fine");
    disk.open(&dir.join("a"), OpenMode::New).expect("create").write_at(b"12345", 0).expect("write");
    disk.open(&deep.join("z"), OpenMode::New).expect("create");
    let names: Vec<_> =
        disk.list(dir).expect("list").into_iter().map(|e| (e.name, e.is_dir, e.len)).collect();
    assert_eq!(names, [("a".to_owned(), false, 5), ("b".to_owned(), true, 0)]);
    disk.remove_dir_all(&dir.join("b")).expect("remove");
    assert_eq!(disk.list(&deep).expect_err("gone").kind(), ErrorKind::NotFound);
    assert_eq!(disk.list(dir).expect("list").len(), 1);
    disk.sync_dir(dir).expect("sync");
}

fn locks_are_exclusive(disk: &dyn Disk, dir: &Path) {
    let path = dir.join(".lock");
    let held = disk.lock(&path).expect("free");
    assert_eq!(disk.lock(&path).expect_err("held").kind(), ErrorKind::WouldBlock);
    drop(held);
    drop(disk.lock(&path).expect("free again"));
}
