"""Code of the runner process, which turns recordings into transcripts. Only it imports torch, whisperx or pyannote."""
