# SPDX-License-Identifier: Apache-2.0
"""`jaxvl serve`: a model behind OpenAI's chat interface."""
