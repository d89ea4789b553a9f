"""The product as a user has it: started by its command, driven from outside."""
