"""The stock runtime: the same image and label code under paddle_serving_server 0.9.0, on CPython 3.9."""
