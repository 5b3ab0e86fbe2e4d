//! Where an embedded broker keeps its data: a directory that was named, a temporary one, or a file
//! system of its own in an image file.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Mutex;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use super::EmbeddedError;
use crate::options::TargetOptions;

/// A file system on which the broker still has room for segments, bytes.
pub const IMAGE_SIZE_MIN: usize = 512 << 20;
/// A device that was just in use can be busy for a moment.
const UNMOUNT_TRIES: usize = 50;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(100);

pub struct Ground {
    data: PathBuf,
    /// What is taken away at the end; emptied by it.
    own: Mutex<Own>,
    is_image: bool,
}

/// What exists for this run only.
#[derive(Default)]
struct Own {
    /// Removed with everything in it.
    scratch: Option<PathBuf>,
    /// Unmounted before.
    mount: Option<PathBuf>,
}

impl Ground {
    /// Makes the directory, and the file system under it when `options` ask for one. What was made
    /// is gone again after an error.
    pub fn prepare(options: &TargetOptions) -> Result<Self, EmbeddedError> {
        let scratch = format!("loadgen-{}", process::id());
        match (&options.data, options.disk_image) {
            (Some(data), None) => {
                make(data)?;
                let (data, own) = (data.clone(), Mutex::default());
                Ok(Self { data, own, is_image: false })
            }
            (None, None) => {
                let data = env::temp_dir().join(scratch);
                make(&data)?;
                let own = Own { scratch: Some(data.clone()), mount: None };
                Ok(Self { data, own: Mutex::new(own), is_image: false })
            }
            (data, Some(size)) => {
                let base = data.clone().unwrap_or_else(env::temp_dir);
                Self::on_image(&base.join(scratch), size)
            }
        }
    }

    /// A file of `size` bytes in `scratch`, as sparse as what is in it, that is a file system.
    fn on_image(scratch: &Path, size: usize) -> Result<Self, EmbeddedError> {
        if !geteuid().is_root() {
            return Err(EmbeddedError::NotRoot);
        }
        if size < IMAGE_SIZE_MIN {
            let least = IMAGE_SIZE_MIN >> 20;
            return Err(EmbeddedError::Image(format!("it needs at least {least} MiB")));
        }
        let mount = scratch.join("disk");
        make(&mount)?;
        let own = Own { scratch: Some(scratch.to_owned()), mount: None };
        // Dropped, and so undone, when a step fails.
        let ground = Self { data: mount.join("data"), own: Mutex::new(own), is_image: true };
        let image = scratch.join("image.ext4");
        let reserve = |file: File| file.set_len(size as u64);
        File::create(&image).and_then(reserve).map_err(|cause| directory(&image, cause))?;
        // No blocks kept back for root: what `statvfs` calls free is what the broker may fill.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
        ground.own().mount = Some(mount);
        make(&ground.data)?;
        Ok(ground)
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn is_image(&self) -> bool {
        self.is_image
    }

    /// Takes away what exists for this run only. Left-overs are no reason to fail.
    pub fn remove(&self) {
        let mut own = self.own();
        if let Some(mount) = own.mount.take() {
            unmount(&mount);
        }
        if let Some(scratch) = own.scratch.take() {
            let _ = fs::remove_dir_all(scratch);
        }
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Own> {
        self.own.lock().expect("no thread panics while it holds the directories")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The loop device goes with the mount: `mount` has set it to.
fn unmount(mount: &Path) {
    for _ in 0..UNMOUNT_TRIES {
        if umount2(mount, MntFlags::empty()).is_ok() {
            return;
        }
        std::thread::sleep(UNMOUNT_PAUSE);
    }
    // Out of sight now, gone when the last file in it is closed.
    let _ = umount2(mount, MntFlags::MNT_DETACH);
}

fn make(path: &Path) -> Result<(), EmbeddedError> {
    fs::create_dir_all(path).map_err(|cause| directory(path, cause))
}

fn directory(path: &Path, cause: io::Error) -> EmbeddedError {
    EmbeddedError::Directory { path: path.display().to_string(), cause }
}

/// Runs `command` to its end.
fn run(command: &mut Command) -> Result<(), EmbeddedError> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .map_err(|cause| EmbeddedError::Image(format!("{program} cannot be started: {cause}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(EmbeddedError::Image(format!("{program}: {}", said.trim())))
}
