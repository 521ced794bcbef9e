"""Adapters for RAG frameworks, one module each: langchain, llama_index, haystack and dspy.

Each needs the extra of its name, with a hyphen for llama-index.
"""
