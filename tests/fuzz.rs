//! The fuzz targets of `fuzz/`, run shortly: on every seed, on seeds with something wrong in them,
//! and on any bytes.

#[path = "../fuzz/src/config.rs"]
mod config;
#[path = "../fuzz/src/http.rs"]
mod http;
#[path = "../fuzz/src/ids.rs"]
mod ids;
#[path = "../fuzz/src/message.rs"]
mod message;

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

use crate::http::test_server;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = std::fs::read_dir(folder).unwrap();
    let seeds: Vec<_> = files.map(|f| std::fs::read(f.unwrap().path()).unwrap()).collect();
    assert!(seeds.len() > 5);
    seeds
}

/// Any bytes, shown as text when they make a target fail.
#[derive(Clone)]
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// A seed in which some places are cut out, and others written there.
fn damaged(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let bits = seeds.clone();
    let piece = prop_oneof![
        vec(any::<u8>(), 0..4),
        "[ -~]{0,4}".prop_map(String::into_bytes),
        (select(bits), any::<Index>(), 0usize..24).prop_map(|(seed, from, length)| {
            let from = from.index(seed.len().max(1));
            seed.into_iter().skip(from).take(length).collect()
        }),
    ];
    let wounds = vec((any::<Index>(), 0usize..8, piece), 1..4);
    (select(seeds), wounds).prop_map(|(mut seed, wounds)| {
        for (at, length, piece) in wounds {
            let from = at.index(seed.len() + 1);
            let to = (from + length).min(seed.len());
            seed.splice(from..to, piece);
        }
        seed
    })
}

fn stands(target: &str, any_bytes: fn(&[u8]), cases: u32) {
    let seeds = seeds(target);
    for seed in &seeds {
        any_bytes(seed);
    }
    let inputs = prop_oneof![4 => damaged(seeds), 1 => vec(any::<u8>(), 0..200)].prop_map(Input);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&inputs, |input| {
        any_bytes(&input.0);
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{target}: {failure}");
    }
}

#[test]
fn whatever_comes_over_a_connection_the_answers_keep_the_contract() {
    stands("http", http::any, 400);
}

#[test]
fn whatever_a_message_says_each_entry_is_an_order_or_a_dead_letter() {
    stands("message", message::any, 4_000);
}

#[test]
fn whatever_the_settings_say_they_are_good_or_the_error_names_the_place() {
    stands("config", config::any, 2_000);
}

#[test]
fn whatever_an_id_or_a_cursor_says_it_is_read_as_it_is_or_refused() {
    stands("ids", ids::any, 1_000);
}
