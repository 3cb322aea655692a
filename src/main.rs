use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::Parser;
use flux::cmd::{Cli, exit_code, one_line};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => match one_line(&e) {
            Some(line) => {
                eprintln!("flux: {line}");
                return ExitCode::from(2);
            }
            None => e.exit(),
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        // On the runtime's own threads, which this one would have to wake and be woken by.
        Ok(runtime) => runtime.block_on(runtime.spawn(cli.run())).unwrap_or_else(|e| Err(e.into())),
        Err(e) => Err(e.into()),
    };
    result.unwrap_or_else(|e| {
        // Who reads the answer has seen enough: `flux dlq list | head`.
        let closed = e.downcast_ref::<io::Error>().map(io::Error::kind);
        if closed != Some(ErrorKind::BrokenPipe) {
            eprintln!("flux: {e:#}");
        }
        exit_code(&e)
    })
}
