//! The file systems that directories are on.

use std::{io, path::Path};

use rustix::{
    fs::{StatFs, statfs},
    io::Errno,
};

use super::HostError;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC`.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Whether a directory, or the nearest above it that is there, is in memory.
pub fn is_in_memory(directory: &Path) -> Result<bool, HostError> {
    let system = nearest(directory)?;
    Ok(system
        .is_some_and(|system| u64::try_from(system.f_type).is_ok_and(|t| IN_MEMORY.contains(&t))))
}

/// How many bytes may still be written below a directory, or the nearest above it that
/// is there; none where there is none.
pub fn free_space(directory: &Path) -> Result<Option<u64>, HostError> {
    let size = |system: StatFs| {
        u64::try_from(system.f_bsize).unwrap_or_default().saturating_mul(system.f_bavail)
    };
    Ok(nearest(directory)?.map(size))
}

fn nearest(directory: &Path) -> Result<Option<StatFs>, HostError> {
    for directory in directory.ancestors() {
        match statfs(directory) {
            Ok(system) => return Ok(Some(system)),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => {
                let (path, source) = (directory.to_owned(), io::Error::from(error));
                return Err(HostError::Read { path, source });
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_are_not_there_are_on_the_file_system_above() {
        for absent in ["/proc/absent", "/dev/shm/absent/below"] {
            let is_shared_memory = absent.starts_with("/dev/shm");
            assert_eq!(is_in_memory(Path::new(absent)).unwrap(), is_shared_memory, "{absent}");
        }
        assert_eq!(free_space(Path::new("/proc")).unwrap(), Some(0));
        assert!(free_space(Path::new("/absent/below")).unwrap() > Some(0));
    }
}
