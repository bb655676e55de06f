"""What is the same on every framework?"""
