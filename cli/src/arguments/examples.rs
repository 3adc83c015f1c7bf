//! What stands below the help of each command. Each line fits in 80 columns.

pub(super) const INIT: &str = "\
Examples:
  tokenkeep init
  tokenkeep init --profile work --store keychain:app/work
  tokenkeep init --store 'age:~/tokens.age?identity=~/key.txt'
  tokenkeep init --provider
  tokenkeep init --provider github --client-id ID --scope repo
  tokenkeep init --issuer https://auth.example/realms/work --client-id ID";
pub(super) const LOGIN: &str = "\
Examples:
  tokenkeep login
  tokenkeep login --open
  tokenkeep login --profile work --browser";
pub(super) const SET: &str = "\
Examples:
  tokenkeep set < tokens.json
  pass show app | tokenkeep set --profile work";
pub(super) const GET: &str = "\
Examples:
  tokenkeep get --header | curl -H @- https://api.example/me
  tokenkeep get --field scope
  tokenkeep get --field json";
pub(super) const STATUS: &str = "\
Examples:
  tokenkeep status
  tokenkeep status --profile work --json";
pub(super) const LIST: &str = "\
Examples:
  tokenkeep list
  tokenkeep list | cut -f 1";
pub(super) const REMOVE: &str = "\
Examples:
  tokenkeep profile remove work
  tokenkeep profile remove work --keep-key";
pub(super) const REFRESH: &str = "\
Examples:
  tokenkeep refresh --profile work";
pub(super) const CLEAR: &str = "\
Examples:
  tokenkeep clear
  tokenkeep clear --profile work --revoke";
pub(super) const IMPORT: &str = "\
Examples:
  tokenkeep import
  tokenkeep import --json";
pub(super) const MIGRATE: &str = "\
Examples:
  tokenkeep migrate --to keychain:app/work
  tokenkeep migrate --from plaintext:tokens.json \\
      --to 'age:tokens.age?identity=key.txt'
  tokenkeep migrate --all --to 'keychain:app/{profile}' --dry-run
  tokenkeep migrate --from import:auto:token.json --dry-run
  tokenkeep migrate --profile work --from import:codex:~/.codex/auth.json";
pub(super) const BACKUP: &str = "\
Examples:
  tokenkeep backup --to backup.age --passphrase
  tokenkeep backup --to backup.age --recipient age1...";
pub(super) const RESTORE: &str = "\
Examples:
  tokenkeep restore --from backup.age
  tokenkeep restore --from backup.age --identity key.txt";
pub(super) const KEYGEN: &str = "\
Examples:
  tokenkeep keygen -o key.txt
  tokenkeep keygen -o key.txt --passphrase";
pub(super) const REKEY: &str = "\
Examples:
  tokenkeep rekey --identity new-key.txt
  tokenkeep rekey --recipient age1...";
pub(super) const DOCTOR: &str = "\
Examples:
  tokenkeep doctor
  tokenkeep doctor --profile work --json";
pub(super) const EXEC: &str = "\
Examples:
  tokenkeep exec -- my-program --its-option
  tokenkeep exec --prefix APP -- sh -c 'echo \"${#APP_ACCESS_TOKEN} characters\"'

Put -- before the command. In single quotes, the inner shell fills in the
variable. In double quotes your own shell would do it, and it has no token.";
pub(super) const COMPLETIONS: &str = "\
Examples:
  tokenkeep completions fish > ~/.config/fish/completions/tokenkeep.fish";
pub(super) const MAN: &str = "\
Examples:
  tokenkeep man
  tokenkeep man > ~/.local/share/man/man1/tokenkeep.1";
