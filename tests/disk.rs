//! What both disks promise, and what the simulated one can do to those who trust it too much.

use std::rc::Rc;

use ringmq::sim::{self, SimDisk};
use ringmq::storage::disk::{BLOCK_SIZE, Disk, DiskFile, Durability};

const BLOCK: u64 = BLOCK_SIZE as u64;

fn filled<D: Disk>(disk: &D, blocks: usize, byte: u8) -> Rc<D::Buffer> {
    let mut buffer = disk.buffer(blocks * BLOCK_SIZE);
    buffer.as_mut().fill(byte);
    Rc::new(buffer)
}

/// A power cut keeps all that was durable and any part of what was not, down to sectors.
#[test]
fn power_loss_takes_only_what_was_not_synced() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        sim::run(async {
            let file = disk.create("log", 4 * BLOCK).await.unwrap();
            file.write(0, filled(&disk, 1, 1), Durability::Durable).await.unwrap();
            file.write(BLOCK, filled(&disk, 1, 2), Durability::Written).await.unwrap();
            file.sync().await.unwrap();
            disk.sync_directory().await.unwrap();
            file.write(2 * BLOCK, filled(&disk, 1, 3), Durability::Written).await.unwrap();
        });
        let found = disk.after_crash(seed).contents("log").expect("the file was durable");
        assert!(found[..BLOCK_SIZE].iter().all(|&byte| byte == 1), "seed {seed}");
        assert!(found[BLOCK_SIZE..2 * BLOCK_SIZE].iter().all(|&byte| byte == 2), "seed {seed}");
        let unsynced = &found[2 * BLOCK_SIZE..3 * BLOCK_SIZE];
        match unsynced.iter().filter(|&&byte| byte == 3).count() {
            0 => lost += 1,
            BLOCK_SIZE => kept += 1,
            size => {
                assert!(size.is_multiple_of(512), "seed {seed}: torn inside a sector");
                torn += 1;
            }
        }
    }
    assert!(kept > 20 && lost > 20 && torn > 20, "kept {kept}, lost {lost}, torn {torn}");
}
