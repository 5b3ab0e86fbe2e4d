//! Where an embedded broker keeps its data: a given directory, a temporary one, or a file system of
//! its own in an image file.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Mutex;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use super::error::EmbeddedError;
use crate::options::TargetOptions;

/// Smallest image on which the broker still has room for segments, bytes.
pub const IMAGE_SIZE_MIN: usize = 512 << 20;
/// A device that was just in use may be busy for a moment.
const UNMOUNT_TRIES: usize = 50;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(100);

pub struct Ground {
    data: PathBuf,
    /// What is removed at the end; removal empties it.
    own: Mutex<Own>,
    is_image: bool,
}

/// What exists only for this run.
#[derive(Default)]
struct Own {
    /// Removed with all its content.
    scratch: Option<PathBuf>,
    /// Unmounted before that.
    mount: Option<PathBuf>,
}

impl Ground {
    /// Creates the directory, and the file system under it if `options` ask for one. After an
    /// error, everything that was created is removed.
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

    /// Mounts a sparse file of `size` bytes in `scratch` as a file system.
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
        // If a step fails, this is dropped, which undoes the earlier steps.
        let ground = Self { data: mount.join("data"), own: Mutex::new(own), is_image: true };
        let image = scratch.join("image.ext4");
        let reserve = |file: File| file.set_len(size as u64);
        File::create(&image).and_then(reserve).map_err(|cause| directory(&image, cause))?;
        // No blocks reserved for root, so that the broker can use all that `statvfs` calls free.
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

    /// Removes what exists only for this run. Leftovers are not an error.
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

/// Unmounting also releases the loop device, because `mount` set it up that way.
fn unmount(mount: &Path) {
    for _ in 0..UNMOUNT_TRIES {
        if umount2(mount, MntFlags::empty()).is_ok() {
            return;
        }
        std::thread::sleep(UNMOUNT_PAUSE);
    }
    // Detached now, and released when the last open file in it is closed.
    let _ = umount2(mount, MntFlags::MNT_DETACH);
}

fn make(path: &Path) -> Result<(), EmbeddedError> {
    fs::create_dir_all(path).map_err(|cause| directory(path, cause))
}

fn directory(path: &Path, cause: io::Error) -> EmbeddedError {
    EmbeddedError::Directory { path: path.display().to_string(), cause }
}

/// Runs `command` and waits for it.
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
