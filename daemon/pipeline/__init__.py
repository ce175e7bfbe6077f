"""What runs inside the runner process: recordings in, transcripts out. The sole importer of torch, whisperx, pyannote."""
