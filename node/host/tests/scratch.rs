//! scratch
#[path = "host/counter.rs"]
mod counter;
use std::time::{Duration, Instant};
use bytes::Bytes;
use counter::*;

fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scratch() {
    let folders = Folders::new();
    let groups: Vec<u64> = (1..=8).collect();
    let (nodes, _n) = start_all(folders.root.path(), 3, &groups).await;
    for g in &groups { nodes[0].propose(*g, b"warm").await; }
    let t = Instant::now();
    for i in 0..200 { nodes[0].propose(1 + i % 8, b"x").await; }
    eprintln!("sequential propose {:?}", t.elapsed() / 200);
    let t = Instant::now();
    let mut by = std::collections::BTreeMap::new();
    for i in 0..200 { let g = 1 + i % 8; let t = Instant::now(); let r = nodes[0].handle.barrier(g).await; by.entry((g, nodes[0].leader(g).await)).or_insert(vec![]).push((t.elapsed().as_millis(), r.is_ok())); }
    for (g, v) in by { eprintln!("{g:?} {v:?}"); }
    eprintln!("sequential barrier {:?}", t.elapsed() / 200);
    let before: u64 = nodes.iter().map(|n| n.handle.metrics().syncs.get()).sum();
    let t = Instant::now();
    let mut set = tokio::task::JoinSet::new();
    for lane in 0..64u64 {
        let h = nodes[(lane % 3) as usize].handle.clone();
        set.spawn(async move { let mut ok = 0; for i in 0..100u64 { if h.propose(1 + (i + lane) % 8, Bytes::from(vec![0u8; 1500])).await.is_ok() { ok += 1; } } ok });
    }
    let mut ok = 0;
    while let Some(r) = set.join_next().await { ok += r.unwrap(); }
    let after: u64 = nodes.iter().map(|n| n.handle.metrics().syncs.get()).sum();
    eprintln!("64 lanes: {ok} in {:?} = {:.0}/s, {} syncs on 3 nodes", t.elapsed(), ok as f64 / t.elapsed().as_secs_f64(), after - before);
}
