fn main() -> std::process::ExitCode {
    flux::cmd::main()
}
