"""Models of the Hugging Face Hub, fetched through huggingface_hub, which the extra `hub` installs."""
