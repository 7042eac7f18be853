//! Gives back the memory that only starting took.
//!
//! The supervisor is a small part of a large executable. Loading it touches pages all over the file (relocations,
//! tables, what comes with every program's start), several megabytes that stay mapped and are never looked at again.
//! They are clean pages of a file: dropped, they cost nothing, and one that is needed after all comes back by itself.

use std::fs;

/// Drops the mapped pages of the executable and its libraries; those in use come back. Best effort.
pub(crate) fn give_back() {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for (start, length) in droppable(&smaps) {
        // SAFETY: the range is a whole mapping of a file that this process cannot write to and in which no page was
        // ever changed (it has no anonymous page), so after the call each page reads as it did before: the kernel
        // takes it from the file again. There is one thread, so the mappings are still those of `smaps`.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Start and length of private, read-only file mappings without a page of our own. Relocated tables are read-only by
/// then, too, and are left out, for their pages exist nowhere else.
fn droppable(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(first), second) = (fields.next(), fields.next()) else { continue };
        if let Some((start, end)) = first.split_once('-') {
            let hex = |text| usize::from_str_radix(text, 16).ok();
            let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
            candidate = match (hex(start), hex(end), second) {
                (Some(start), Some(end), Some("r-xp" | "r--p")) if is_file => Some((start, end - start)),
                _ => None,
            };
        } else if first == "Anonymous:" && second == Some("0") {
            found.extend(candidate.take());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    //! Which mappings are dropped.
    use super::*;

    #[test]
    fn only_unchanged_read_only_file_mappings_are_droppable() {
        let smaps = "\
55d0-55e0 r--p 00000000 fe:00 42                         /usr/bin/gangsaw
Rss:                 100 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55e0-55f0 r-xp 00010000 fe:00 42                         /usr/bin/gangsaw
Anonymous:             0 kB
55f0-5600 r--p 00020000 fe:00 42                         /usr/bin/gangsaw
Anonymous:           800 kB
5600-5610 rw-p 00030000 fe:00 42                         /usr/bin/gangsaw
Anonymous:             0 kB
5610-5620 r--p 00000000 00:00 0
Anonymous:             0 kB
5620-5630 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
5630-5640 r--s 00000000 fe:00 43                         /usr/share/x
Anonymous:             0 kB
";
        assert_eq!(droppable(smaps), [(0x55d0, 0x10), (0x55e0, 0x10)]);
    }
}
